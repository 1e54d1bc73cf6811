"""The log of a run has each step once, through resumes and crashes, and other trackers hear the same."""

import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
import types

import pytest

from zephyr.errors import RecipeError
from zephyr.runs.layout import TRAIN_LOG
from zephyr.train import tracker
from zephyr.train.tracker import Run, TrackedAs, keep_scores, open_trackers


def run_at(folder, resumed_step=None):
    return Run(folder, "tiny-dpo", {"learning_rate": 5.0e-7}, resumed_step)


def lines(folder):
    def refuse(word):
        raise AssertionError(word)

    return [json.loads(line, parse_constant=refuse) for line in (folder / TRAIN_LOG).read_text().splitlines()]


def log_steps(folder, steps, resumed_step=None):
    opened = open_trackers([], run_at(folder, resumed_step))
    for step in steps:
        opened.log(step, {"loss": 1 / step})
    return opened


def test_each_step_is_one_line_that_is_there_at_once(tmp_path):
    opened = open_trackers(["jsonl"], run_at(tmp_path / "run"))
    opened.log(1, {"loss": 0.1 + 0.2, "epoch": 0})
    assert (tmp_path / "run" / TRAIN_LOG).read_text() == '{"step": 1, "loss": 0.30000000000000004, "epoch": 0}\n'
    opened.close()


def test_a_resumed_run_has_each_step_once(tmp_path):
    log_steps(tmp_path, range(1, 8))  # killed after step 7, the last checkpoint is of step 4
    with (tmp_path / TRAIN_LOG).open("a") as file:
        file.write('{"step": 8, "lo')
    log_steps(tmp_path, range(5, 11), resumed_step=4).close()
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 11))
    assert sorted(path.name for path in tmp_path.iterdir()) == [TRAIN_LOG]


def test_a_fresh_start_leaves_no_lines_of_an_older_run(tmp_path):
    log_steps(tmp_path, range(1, 8)).close()
    log_steps(tmp_path, [1]).close()
    assert lines(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_a_step_is_not_logged_twice(tmp_path):
    opened = log_steps(tmp_path, [5, 6], resumed_step=4)
    with pytest.raises(ValueError, match="each step is logged once, in rising order, got 6 after 6"):
        opened.log(6, {"loss": 1.0})
    opened.close()


def test_numbers_that_are_not_finite_are_null_and_said(tmp_path, caplog):
    opened = open_trackers([], run_at(tmp_path))
    with caplog.at_level(logging.WARNING):
        opened.log(3, {"loss": math.nan, "grad_norm": math.inf, "epoch": 0.5})
    opened.close()
    words = {"loss": "nan", "grad_norm": "inf"}
    assert lines(tmp_path) == [
        {
            "step": 3,
            "loss": None,
            "grad_norm": None,
            "epoch": 0.5,
            "non_finite": words,
        }
    ]
    assert "step 3: not finite, so written as null: {'loss': 'nan', 'grad_norm': 'inf'}" in caplog.text


def test_an_unknown_tracker_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(RecipeError) as caught:
        open_trackers(["wand"], run_at(tmp_path))
    assert str(caught.value) == (
        "report_to: there is no tracker 'wand'; did you mean 'wandb'?; choose from jsonl, tensorboard, trackio, wandb"
    )


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_named_and_the_old_log_stays(tmp_path, monkeypatch, name):
    log_steps(tmp_path, [1, 2]).close()
    monkeypatch.setattr(tracker.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(RecipeError) as caught:
        open_trackers([name], run_at(tmp_path))
    assert str(caught.value) == (
        f"report_to: the tracker '{name}' needs a package that is not installed;"
        f" run `pip install {name}`, or take '{name}' out"
    )
    assert len(lines(tmp_path)) == 2


class Recorder:
    """Stands for another's package and the run it gives; writes down what it is asked."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def record(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return self

        return record


@pytest.fixture
def pretend(monkeypatch):
    def install(name):
        recorder = Recorder()
        module = types.ModuleType(name)
        module.__spec__ = types.SimpleNamespace(name=name)
        module.__getattr__ = lambda attribute: getattr(recorder, attribute)
        monkeypatch.setitem(sys.modules, name, module)
        return recorder

    for variable in ("WANDB_ERROR_REPORTING", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(variable, "to be set")
        monkeypatch.delenv(variable)
    return install


def test_trackio_gets_the_same_numbers_and_no_telemetry_runs(tmp_path, pretend):
    recorder = pretend("trackio")
    opened = open_trackers(["trackio"], run_at(tmp_path))
    opened.log(1, {"loss": 0.5})
    opened.close()
    (begin, log, finish) = recorder.calls
    assert begin[0] == "init"
    assert begin[2]["config"] == {"learning_rate": 5.0e-7}
    assert begin[2]["resume"] == "never"
    assert log == ("log", ({"loss": 0.5},), {"step": 1})
    assert finish[0] == "finish"
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert lines(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_a_resumed_run_goes_on_at_wandb_and_a_fresh_one_begins_anew(tmp_path, pretend):
    recorder = pretend("wandb")
    for resumed_step in (None, 3, None):
        open_trackers(["wandb"], run_at(tmp_path, resumed_step)).close()
    begins = [kwargs for name, _, kwargs in recorder.calls if name == "init"]
    first, resumed, fresh = [kwargs["id"] for kwargs in begins]
    assert first == resumed != fresh
    settings = next(kwargs for name, _, kwargs in recorder.calls if name == "Settings")
    assert settings == {"console": "off", "disable_code": True, "disable_git": True}
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def test_no_tracker_is_loaded_that_is_not_named(tmp_path):
    line = (
        "import sys; from pathlib import Path; from zephyr.train.tracker import *;"
        "open_trackers([], Run(Path(sys.argv[1]), 'n', {})).close();"
        "print(sorted({'wandb', 'trackio', 'tensorboard', 'gradio'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", line, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def scalars(folder, name):
    """The steps and values of a number in TensorBoard's event files, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_writes_events(tmp_path):
    pytest.importorskip("tensorboard")
    opened = open_trackers(["tensorboard"], run_at(tmp_path))
    opened.log(7, {"rewards/accuracies": 0.75})
    opened.close()
    assert scalars(tmp_path / "tensorboard", "rewards/accuracies") == [(7, 0.75)]


RECIPE = {"name": "tiny", "align": {"objective": {"beta": 0.1}}}


def stage_of(folder, resumed_step=None):
    """The run of a stage whose folder is renamed when it is finished."""
    tracked = TrackedAs("tiny", "align", "align-0123456789", folder, RECIPE)
    return Run(folder / ".align-0123456789.partial/train", tracked.name, RECIPE, resumed_step, None, tracked)


def test_a_stages_events_and_scores_are_there_when_its_folder_has_its_last_name(tmp_path):
    pytest.importorskip("tensorboard")
    opened = open_trackers(["tensorboard"], stage_of(tmp_path))
    opened.log(1, {"loss": 0.5})
    opened.close()
    (tmp_path / ".align-0123456789.partial").rename(tmp_path / "align-0123456789")
    done = stage_of(tmp_path, 1)._replace(folder=tmp_path / "align-0123456789/train")
    keep_scores(["jsonl", "tensorboard"], done, 1, {"world": 0.25})
    events = tmp_path / "tensorboard/tiny/align-0123456789"
    assert scalars(events, "loss") == [(1, 0.5)]
    assert scalars(events, "scores/world") == [(1, 0.25)]
    assert lines(tmp_path / "align-0123456789/train") == [{"step": 1, "loss": 0.5}]


WANDB_VARIABLES = ("PROJECT", "NAME", "RUN_GROUP", "JOB_TYPE", "DIR", "RUN_ID", "MODE")


def test_wandb_is_told_the_stage_and_the_run_and_the_environment_wins(tmp_path, pretend, monkeypatch):
    for name in WANDB_VARIABLES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    recorder = pretend("wandb")
    open_trackers(["wandb"], stage_of(tmp_path)).close()
    (begin,) = [kwargs for name, _, kwargs in recorder.calls if name == "init"]
    assert {name: begin[name] for name in ("project", "name", "group", "job_type", "dir", "config")} == {
        "project": "zephyr",
        "name": "tiny/align",
        "group": "tiny",
        "job_type": "align",
        "dir": str(tmp_path.resolve()),
        "config": RECIPE,
    }
    for name in ("PROJECT", "NAME", "RUN_GROUP", "JOB_TYPE", "DIR", "RUN_ID"):
        monkeypatch.setenv(f"WANDB_{name}", "mine")
    recorder.calls.clear()
    open_trackers(["wandb"], stage_of(tmp_path)).close()
    (begin,) = [kwargs for name, _, kwargs in recorder.calls if name == "init"]
    assert begin.keys().isdisjoint({"project", "name", "group", "job_type", "dir"})
    assert begin["id"] == "mine"  # as the agent of a sweep sets it


def test_wandb_itself_keeps_a_run_and_its_scores_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in WANDB_VARIABLES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    opened = open_trackers(["wandb"], stage_of(tmp_path))
    opened.log(1, {"loss": 0.5})
    opened.close()
    keep_scores(["wandb"], stage_of(tmp_path, 1), 1, {"world": 0.25})
    kept = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(kept) == 2  # the training, and its scores under the same id
    assert len({path.stem for path in kept}) == 1
    content = b"".join(path.read_bytes() for path in kept)
    assert b"tiny/align" in content
    assert b"scores/world" in content


def test_trackio_itself_keeps_a_run_and_its_scores(tmp_path):
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    line = (
        "import sys; from pathlib import Path; from zephyr.train.tracker import *; folder = Path(sys.argv[1]);"
        "tracked = TrackedAs('tiny', 'align', 'align-0', folder, {'name': 'tiny'});"
        "run = Run(folder, tracked.name, tracked.config, None, None, tracked);"
        "opened = open_trackers(['trackio'], run); opened.log(1, {'loss': 0.5}); opened.close();"
        "keep_scores(['trackio'], run._replace(resumed_step=1), 1, {'world': 0.25})"
    )
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "kept")}  # read when the package is imported
    done = subprocess.run([sys.executable, "-c", line, str(tmp_path)], env=environment, capture_output=True, check=True)
    assert b"tiny/align" in done.stdout
    assert any(b"scores/world" in path.read_bytes() for path in (tmp_path / "kept").rglob("zephyr*") if path.is_file())
