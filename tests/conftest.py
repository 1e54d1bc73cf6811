"""What every test gets: no network, one thread, fixed seeds, and a folder of real data if there is one."""

import gc
import os

# Before transformers is imported: it reads these once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Models here are so small that threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import signal
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent

# While tests are collected: the modules and tests that this makes all stay.
gc.disable()

# A shell ignores Ctrl-C for what it starts in the background, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every machine and every day; a slow machine is no failure.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout: the folder with pyproject.toml."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; the test is skipped where there is none."""
    folder = Path(os.environ.get("ZEPHYR_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set ZEPHYR_SHARED_DATA to its folder")
    return folder


@pytest.fixture(autouse=True)
def fixed_start() -> None:
    """The same seeds and number of threads at the start of every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_finish() -> None:
    """Leave all modules and tests out of garbage collection, and collect seldom: a fifth of the run otherwise."""
    gc.freeze()
    gc.set_threshold(20_000, 5, 5)
    gc.enable()


def pytest_report_header() -> str:
    """A line on what the numbers of this run depend on."""
    return f"torch {torch.__version__}, {os.environ['OMP_NUM_THREADS']} threads, {sys.platform}"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Mistral with its tokenizer."""
    from zephyr.models.loading import save_model
    from zephyr.models.tiny import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "base"
    tokenizer = tiny_tokenizer()
    save_model(tiny_model("mistral", vocab_size=len(tokenizer)), tokenizer, folder)
    return folder
