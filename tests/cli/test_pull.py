"""A run that was stopped half-way, pushed, and continued in another folder from the hub."""

import json
import sqlite3
from collections import Counter
from contextlib import closing

import pytest
from rich.console import Console

from tests.cli.test_push import environment, hub, zephyr  # noqa: F401 - fixtures
from tests.command import chat, jsonl
from tests.deliver.hub_server import TOKEN
from tests.mini import TRAIN, mini_fields
from zephyr.deliver.run_state import state_of
from zephyr.errors import ZephyrError
from zephyr.pipeline import run_recipe
from zephyr.recipe.schema import Recipe
from zephyr.runs.lock_file import requested_run

pytestmark = pytest.mark.slow  # whole runs, and a process for each command
QUIET = Console(quiet=True)


def fields(folder):
    """Two trainings, the second on a file of the user's."""
    made = mini_fields(folder / "runs")
    made["sft"]["data"] = {"sources": [{"path": "talks.jsonl"}], "max_length": 160}
    made["sft"]["train"] = TRAIN | {"max_steps": 9}
    kept = ("name", "output_dir", "offline", "model", "synth", "pretrain", "sft")
    return {name: made[name] for name in kept} | {"data_dir": str(folder)}


def continued(lock, *overrides):
    """Run a lock file to the end."""
    asked = requested_run(str(lock), overrides, offline=True)
    run_recipe(asked.recipe, console=QUIET, pinned=asked.pinned)


@pytest.fixture
def here(tmp_path):
    """A folder with a user's rows and a run of them that was stopped behind step 5 of sft."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "talks.jsonl").write_bytes(jsonl(*map(chat, range(40))))
    recipe = Recipe.model_validate(fields(folder))

    def stop(number, metrics):
        if number >= 5:
            raise KeyboardInterrupt

    run_recipe(recipe, console=QUIET, until="pretrain")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, console=QUIET, on_step=stop)
    return folder


def test_a_run_goes_on_from_the_hub(hub, environment, here, tmp_path):  # noqa: F811
    run = here / "runs/mini"
    code, _, err = zephyr(environment, "push", run, "me/half")
    assert code == 2
    assert "stage sft is not finished; run its recipe to the end, or push it to be continued elsewhere" in err
    code, out, err = zephyr(environment, "push", run, "me/half", "--resumable")
    assert code == 0, err
    assert "to be continued with zephyr pull: synth finished, pretrain finished, sft at step 4" in out
    assert hub.repos["model", "me/half"]["private"]
    files = dict(hub.files("me/half"))
    assert all(name.startswith("run/") for name in files)
    assert not any(name.endswith((".lock", "talks.jsonl", ".journal")) or "holder" in name for name in files)
    for content in files.values():
        assert TOKEN.encode() not in content
        assert str(tmp_path).encode() not in content

    there = tmp_path / "there"
    there.mkdir()
    code, out, err = zephyr(environment, "pull", "me/half", folder=there)
    assert code == 0, err
    assert "pretrain: finished\nsft: at step 4\n" in out
    assert "reads talks.jsonl (train), which is not on the hub" in out
    assert "continue with: zephyr run runs/mini/run.lock.json" in err
    assert [path.name for path in (there / "runs").iterdir()] == ["mini"]
    stages = {path: path.stat().st_mtime_ns for path in there.glob("runs/mini/*/stage.json")}
    assert len(stages) == 2

    # Its own rows are looked for, and compared.
    lock, places = there / "runs/mini/run.lock.json", f"output_dir={there / 'runs'}"
    with pytest.raises(ZephyrError, match=r"talks\.jsonl: no such file or folder"):
        continued(lock, places, f"data_dir={there}")
    (there / "talks.jsonl").write_text((here / "talks.jsonl").read_text().replace("Fine", "Well"))
    with pytest.raises(ZephyrError, match=r"have changed since the locked run: sft: talks\.jsonl \(train\)"):
        continued(lock, places, f"data_dir={there}")
    with pytest.raises(ZephyrError, match="takes no overrides but data_dir and output_dir, got seed=1"):
        continued(lock, "seed=1")
    continued(lock, places, f"data_dir={here}")
    assert {path: path.stat().st_mtime_ns for path in stages} == stages
    (log,) = there.glob("runs/mini/sft-*/train/train_log.jsonl")
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()][-1] == 9

    # It ends with the weights of a run that was never elsewhere.
    run_recipe(Recipe.model_validate(fields(here)), console=QUIET)
    (one,) = there.glob("runs/mini/sft-*/model/model.safetensors")
    (other,) = run.glob("sft-*/model/model.safetensors")
    assert one.read_bytes() == other.read_bytes()

    # Pushed again: what is no longer of the run is taken from the repository.
    assert any(".partial/" in name for name in hub.files("me/half"))
    code, out, err = zephyr(environment, "push", run, "me/half", "--resumable")
    assert code == 0, err
    assert "sft finished" in out
    assert not any(".partial/" in name for name in hub.files("me/half"))


def test_what_is_pulled_is_compared_and_overwrites_nothing(hub, environment, here, tmp_path):  # noqa: F811
    run, there = here / "runs/mini", tmp_path / "there"
    there.mkdir()
    assert zephyr(environment, "push", run, "me/half", "--resumable")[0] == 0
    files = hub.files("me/half")
    name = next(one for one in files if one.endswith("model.safetensors"))
    whole = files[name]
    files[name] = whole[:-1] + bytes([whole[-1] ^ 1])
    code, _, err = zephyr(environment, "pull", "me/half", folder=there)
    assert code == 2
    assert f"me/half, {name}: is not as it was pushed; push the run again, then pull" in err
    assert not (there / "runs/mini").exists()

    # The same command goes on: what was here is not fetched again.
    files[name] = whole
    hub.repos["model", "me/half"]["sha"] = "2" * 40
    code, _, err = zephyr(environment, "pull", "me/half", folder=there)
    assert code == 0, err
    fetched = Counter(path.partition("/run/")[2] for path in hub.sent("GET") if "/run/" in path)
    assert {file for file, count in fetched.items() if count > 1} == {"files.json", name.removeprefix("run/")}

    # A folder that is there stays as it is.
    (there / "runs/mini/run.lock.json").touch()
    (changed,) = there.glob("runs/mini/pretrain-*/outcome.json")
    changed.write_text("{}")
    code, _, err = zephyr(environment, "pull", "me/half", folder=there)
    assert code == 2
    assert "runs/mini: is there already, and is not the run of that repository as it was pushed" in err
    assert changed.read_text() == "{}"

    listed = json.loads(files["run/files.json"])
    listed["files"]["../outside.json"] = {"num_bytes": 1, "sha256": ""}
    files["run/files.json"] = json.dumps(listed).encode()
    hub.repos["model", "me/half"]["sha"] = "3" * 40
    code, _, err = zephyr(environment, "pull", "me/half", "--output-dir", "other", folder=there)
    assert code == 2
    assert "lists '../outside.json', which is no file of a run" in err


def test_what_is_no_run(hub, environment, here, tmp_path):  # noqa: F811
    code, _, err = zephyr(environment, "pull", "me/none", folder=tmp_path)
    assert (code, "the hub has no such repository" in err) == (2, True)
    hub.repos["model", "me/tiny"] = {"private": False, "files": {}, "commits": [], "sha": "1" * 40}
    code, _, err = zephyr(environment, "pull", "me/tiny", folder=tmp_path)
    assert (code, "holds no run to be continued; push one with zephyr push RUN" in err) == (2, True)
    code, _, err = zephyr(environment, "push", here, "me/half", "--resumable")
    assert (code, "so it is no single run" in err) == (2, True)
    assert not (here / ".lock").exists()
    code, _, err = zephyr(environment, "push", here / "runs/mini", "me/tiny", "--resumable")
    assert (code, "is public already, and is to be private" in err) == (2, True)


def test_a_ledger_goes_along_whole_and_paths_do_not(tmp_path):
    made = mini_fields(tmp_path / "runs")
    run_recipe(Recipe.model_validate(made), console=QUIET, until="feedback")
    run, work = tmp_path / "runs/mini", tmp_path / "work"
    work.mkdir()
    (ledger,) = run.glob("feedback-*/calls.sqlite")
    found = {one.name: one.content for one in state_of(run, work).uploads}
    with (
        closing(sqlite3.connect(ledger)) as one,
        closing(sqlite3.connect(found[f"run/{ledger.relative_to(run).as_posix()}"])) as other,
    ):
        one.execute("INSERT INTO holds VALUES ('host-1', 1, 1, 1, 1)")
        for table, count in (("calls", None), ("holds", 0)):
            (there,), (copied,) = (file.execute(f"SELECT count(*) FROM {table}").fetchone() for file in (one, other))
            assert copied == (there if count is None else count)
    lock = json.loads((run / "run.lock.json").read_text())
    lock["recipe"]["description"] = "of /home/alice/rows"
    (run / "run.lock.json").write_text(json.dumps(lock))
    with pytest.raises(ZephyrError, match="description: names a path of this machine, '/home/alice'"):
        state_of(run, work)
