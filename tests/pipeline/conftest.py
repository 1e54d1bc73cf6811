"""A tiny model on disk, made once."""

from pathlib import Path

import pytest

from zephyr.models.loading import save_model
from zephyr.models.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Mistral with its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    tokenizer = tiny_tokenizer()
    save_model(tiny_model("mistral", vocab_size=len(tokenizer)), tokenizer, folder)
    return folder
