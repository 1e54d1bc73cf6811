"""A run that was stopped half-way, pushed, and continued in another folder from the hub."""

import json
import sqlite3
from contextlib import closing

import pytest
import yaml
from rich.console import Console

from tests.cli.test_push import environment, hub, zephyr  # noqa: F401 - fixtures
from tests.command import chat, jsonl
from tests.deliver.hub_server import TOKEN
from tests.mini import TRAIN, mini_fields
from zephyr.pipeline import run_recipe
from zephyr.recipe.schema import Recipe

pytestmark = pytest.mark.slow  # whole runs


def fields(folder):
    """A mini recipe with a file of its user's, and a ledger."""
    made = mini_fields(folder / "runs")
    made["sft"]["data"] = {"sources": [{"path": "talks.jsonl"}], "max_length": 160, "eval_share": 0.1}
    made["sft"]["train"] = TRAIN | {"max_steps": 9}
    return made | {"data_dir": str(folder)}


def stopped(recipe, step):
    """Run the recipe up to this step of sft."""

    def stop(number, metrics):
        if number >= step:
            raise KeyboardInterrupt

    run_recipe(recipe, console=Console(quiet=True), until="pretrain")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, console=Console(quiet=True), on_step=stop)


@pytest.fixture
def here(tmp_path):
    """A folder with a user's rows and a run of them that stopped in sft."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "talks.jsonl").write_bytes(jsonl(*map(chat, range(40))))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(fields(folder)))
    stopped(Recipe.model_validate(fields(folder)), 5)
    return folder


def test_a_run_goes_on_from_the_hub(hub, environment, here, tmp_path):  # noqa: F811
    run = here / "runs/mini"
    code, out, err = zephyr(environment, "push", run, "me/half")
    assert code == 2
    assert "stage sft is not finished; run its recipe to the end, or push it to be continued elsewhere" in err
    code, out, err = zephyr(environment, "push", run, "me/half", "--resumable")
    assert code == 0, err
    assert "to be continued with zephyr pull: synth finished, pretrain finished, sft at step 4" in out
    assert hub.repos["model", "me/half"]["private"]
    files = hub.files("me/half")
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
    assert sorted(path.name for path in (there / "runs").iterdir()) == ["mini"]

    # Its own rows are looked for, and compared.
    lock = "runs/mini/run.lock.json"
    code, _, err = zephyr(environment, "run", lock, folder=there)
    assert code == 2
    assert "talks.jsonl: no such file or folder" in err
    (there / "talks.jsonl").write_text((here / "talks.jsonl").read_text().replace("Fine", "Well"))
    code, _, err = zephyr(environment, "run", lock, folder=there)
    assert code == 2
    assert "have changed since the locked run: sft: talks.jsonl (train)" in err
    (there / "talks.jsonl").unlink()
    code, out, err = zephyr(environment, "run", lock, f"data_dir={here}", folder=there)
    assert code == 0, err
    assert out.count("skipped, finished") == 2
    assert "training: step 5 of 9" in err

    # It ends with the weights of a run that was never elsewhere.
    code, _, err = zephyr(environment, "run", here / "recipe.yaml", folder=here)
    assert code == 0, err
    for stage in ("sft", "align"):
        (one,) = (there / "runs/mini").glob(f"{stage}-*/model/model.safetensors")
        (other,) = run.glob(f"{stage}-*/model/model.safetensors")
        assert one.read_bytes() == other.read_bytes()
    log = next((there / "runs/mini").glob("sft-*/train/train_log.jsonl")).read_text()
    assert [json.loads(line)["step"] for line in log.splitlines() if '"loss"' in log][-1] == 9

    # Pushed again: what is no longer of the run is taken from the repository.
    code, out, err = zephyr(environment, "push", there / "runs/mini", "me/half", "--resumable", folder=there)
    assert code == 0, err
    assert not any(".partial/" in name for name in hub.files("me/half"))
    code, out, err = zephyr(environment, "pull", "me/half", "--output-dir", "again", folder=there)
    assert (code, out.count(": finished")) == (0, 7), err


def test_what_is_there_is_never_overwritten(hub, environment, here, tmp_path):  # noqa: F811
    run = here / "runs/mini"
    assert zephyr(environment, "push", run, "me/half", "--resumable")[0] == 0
    code, _, err = zephyr(environment, "pull", "me/half", folder=here)
    assert code == 0, err  # the same run, as it was pushed
    (next(run.glob("pretrain-*")) / "outcome.json").write_text("{}")
    code, _, err = zephyr(environment, "pull", "me/half", folder=here)
    assert code == 2
    assert "runs/mini: is there already, and is not the run of that repository as it was pushed" in err


def test_files_that_changed_on_the_way_are_refused(hub, environment, here, tmp_path):  # noqa: F811
    assert zephyr(environment, "push", here / "runs/mini", "me/half", "--resumable")[0] == 0
    files, there = hub.files("me/half"), tmp_path / "there"
    there.mkdir()
    name = next(one for one in files if one.endswith("model.safetensors"))
    whole = files[name]
    files[name] = whole[:-1] + bytes([whole[-1] ^ 1])
    code, _, err = zephyr(environment, "pull", "me/half", folder=there)
    assert code == 2
    assert f"me/half, {name}: is not as it was pushed; push the run again, then pull" in err
    assert not (there / "runs/mini").exists()
    fetched = hub.sent("GET")
    files[name] = whole
    hub.repos["model", "me/half"]["sha"] = "2" * 40
    code, _, err = zephyr(environment, "pull", "me/half", folder=there)
    assert code == 0, err
    assert len(hub.sent("GET")) < 2 * len(fetched)  # what was here was not fetched again

    listed = json.loads(files["run/files.json"])
    listed["files"]["../outside.json"] = {"num_bytes": 1, "sha256": ""}
    files["run/files.json"] = json.dumps(listed).encode()
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


def test_a_ledger_goes_along_whole(hub, environment, here):  # noqa: F811
    run, rows = here / "runs/mini", "SELECT count(*) FROM calls"
    recipe = Recipe.model_validate(fields(here))
    run_recipe(recipe, console=Console(quiet=True), until="feedback")
    assert zephyr(environment, "push", run, "me/half", "--resumable")[0] == 0
    (ledger,) = run.glob("feedback-*/calls.sqlite")
    pushed = here / "pushed.sqlite"
    pushed.write_bytes(hub.files("me/half")[f"run/{ledger.relative_to(run).as_posix()}"])
    with closing(sqlite3.connect(ledger)) as one, closing(sqlite3.connect(pushed)) as other:
        assert one.execute(rows).fetchone() == other.execute(rows).fetchone()
