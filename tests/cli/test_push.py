"""Publishing over HTTP by huggingface_hub's own client, against a stand-in of the hub that holds what it is sent."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import jsonl, pair
from tests.deliver.hub_server import TOKEN, hub_server

pytestmark = pytest.mark.slow  # a process for each command

ZEPHYR = [sys.executable, "-m", "zephyr"]


@pytest.fixture
def hub():
    with hub_server() as started:
        yield started


@pytest.fixture
def environment(hub, tmp_path):
    """What points huggingface_hub at the stand-in; Xet is a storage of its own, which it does not have."""
    sources = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return {**os.environ, **sources, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def zephyr(environment, *words, folder=None):
    done = subprocess.run(
        [*ZEPHYR, *map(str, words)], env=environment, capture_output=True, text=True, cwd=folder, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def model(tiny_folder, tmp_path):
    """A model folder with a card, and things in it that are nobody's business."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# Tiny\n")
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / ".README.md.sha256").write_text("0")
    return folder


def test_a_model_is_pushed_once_and_loads_from_there(hub, environment, model):
    code, out, err = zephyr(environment, "push", model, "me/tiny", "--private")
    assert (code, err.splitlines()[-1]) == (0, f"-> {hub.address}/me/tiny")
    assert "left out: optimizer.pt (no file of a model)" in out
    files = hub.files("me/tiny")
    assert files["model.safetensors"] == (model / "model.safetensors").read_bytes()
    assert {"README.md", "config.json", "tokenizer.json"} <= files.keys()
    assert not {"optimizer.pt", ".README.md.sha256"} & files.keys()
    assert hub.repos["model", "me/tiny"]["private"]

    # Again: nothing is sent, and nothing is committed.
    uploads = len(hub.sent("PUT"))
    assert zephyr(environment, "push", model, "me/tiny")[0] == 0
    assert len(hub.sent("PUT")) == uploads
    assert len(hub.repos["model", "me/tiny"]["commits"]) == 1

    program = "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer as T;"
    program += (
        "print(AutoModelForCausalLM.from_pretrained('me/tiny').num_parameters(), T.from_pretrained('me/tiny')('a b'))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    assert "input_ids" in loaded.stdout


def test_a_push_that_was_cut_goes_on(hub, environment, model):
    hub.refuse["/commit/"] = 413
    code, _, err = zephyr(environment, "push", model, "me/tiny")
    assert code == 2
    assert err.splitlines()[-1].startswith("error: me/tiny: the hub refuses a file or commit of this size (HTTP 413")
    sent = hub.sent("PUT")
    assert len(sent) == 1
    hub.refuse.clear()
    assert zephyr(environment, "push", model, "me/tiny")[0] == 0
    assert hub.sent("PUT") == sent  # the weights were there already
    assert "model.safetensors" in hub.files("me/tiny")


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("/repos/create", 401, "the hub does not accept the token (HTTP 401"),
        ("/repos/create", 403, "the hub does not let this token write there (HTTP 403"),
        ("/preupload/", 404, "the hub has no such repository or owner, or hides it from this token (HTTP 404"),
        ("/commit/", 409, "the hub refuses, as somebody else changes the repository now"),
    ],
)
def test_refusals_of_the_hub_are_told_in_a_line(hub, environment, model, part, status, said):
    hub.refuse[part] = status
    code, _, err = zephyr(environment, "push", model, "me/tiny")
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith(f"error: me/tiny: {said}")
    assert "; " in last
    assert TOKEN not in err


def test_what_is_missing_is_told_before_anything_is_sent(hub, environment, model):
    code, _, err = zephyr({**environment, "HF_TOKEN": ""}, "push", model, "me/tiny")
    assert code == 2
    assert "hub repository 'me/tiny': needs a token, and there is none; log in (hf auth login) or set HF_TOKEN" in err
    code, _, err = zephyr({**environment, "HF_HUB_OFFLINE": "1"}, "push", model, "me/tiny")
    assert "cannot be reached offline" in err
    code, _, err = zephyr(environment, "push", model, "tiny")
    assert "names no owner; write OWNER/NAME" in err
    assert hub.requests == []
    code, _, err = zephyr({**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}, "push", model, "me/tiny")
    assert "the hub cannot be reached" in err


def test_a_public_repository_is_not_taken_for_a_private_one(hub, environment, model):
    assert zephyr(environment, "push", model, "me/tiny")[0] == 0
    code, _, err = zephyr(environment, "push", model, "me/tiny", "--private")
    assert code == 2
    assert "is public already, and is to be private; make it private in its settings" in err


def test_rows_become_a_data_set_with_a_card(hub, environment, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(*map(pair, range(5))))
    code, _, err = zephyr(environment, "push", tmp_path / "pairs.jsonl", "me/pairs")
    assert code == 0, err
    files = hub.files("me/pairs", "dataset")
    rows = parquet.read_table(io.BytesIO(files["pairs/train-00000-of-00001.parquet"])).to_pylist()
    assert rows == [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    card = files["README.md"].decode()
    assert "config_name: pairs" in card
    assert "| pairs | 5 | `pairs/train-00000-of-00001.parquet` |" in card


def test_a_dry_run_lists_files_and_sends_nothing(hub, environment, model):
    code, out, _ = zephyr(environment, "push", model, "me/tiny", "--dry-run")
    assert code == 0
    assert "model me/tiny: " in out
    assert "model.safetensors" in out
    assert hub.requests == []


def test_a_file_comes_back_from_the_hub(hub, environment, tmp_path):
    """A recipe is repeated from the lock file in a repository; what it needs is checked as everywhere."""
    hub.repos["model", "me/tiny"] = {
        "private": False,
        "files": {"run.lock.json": b"[]"},
        "commits": [],
        "sha": "1" * 40,
    }
    code, _, err = zephyr(environment, "check", "me/tiny/run.lock.json", folder=tmp_path)
    assert code == 2
    assert "run.lock.json: is not a run.lock.json" in err
    code, _, err = zephyr(environment, "check", "me/none/run.lock.json", folder=tmp_path)
    assert "error: me/none: the hub has no such repository" in err
    assert Path(tmp_path / "hf").is_dir()
