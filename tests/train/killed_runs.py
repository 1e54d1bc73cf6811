"""A process that trains in children, ends them at random moments and starts them again; no tests in it.

It imports everything once and forks, so a restart costs what a run itself costs and nothing else.
`python -m tests.train.killed_runs FOLDER NUM_EPOCHS NUM_KILLS kill` kills; `terminate` sends SIGTERM to runs that would
save at their end alone. It prints what happened as one line of JSON.
"""

import json
import logging
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch._dynamo  # optimizers import it at first use; loaded here, children start warm
from safetensors.torch import save_file

from tests.train.tiny_runs import pairs, tiny_job
from zephyr.train.train import train

MOST_LIVES = 200


def run(folder: Path, num_epochs: int, *, saves: bool) -> None:
    """Trains to the end in a child of its own; the weights are there if it got so far."""
    torch.set_num_threads(1)
    logging.basicConfig(filename=folder / "words.log", level=logging.INFO)
    job = tiny_job(
        folder,
        num_train_epochs=num_epochs,
        eval_steps=3,
        eval_examples=pairs(4, seed=1),
        save_steps=1 if saves else None,
        save_seconds=None,
        # Lines of two steps: what waits for its line must survive too.
        logging_steps=2,
        metric_for_best_model="loss",
    )
    train(job)
    save_file(dict(job.model.state_dict()), folder / "weights.safetensors")


def start(folder: Path, num_epochs: int, *, saves: bool = True) -> int:
    """The id of a child that trains in the folder."""
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with (folder / "stderr.txt").open("a") as said:
            os.dup2(said.fileno(), 2)
        run(folder, num_epochs, saves=saves)
        status = 0
    except SystemExit as ended:
        status = int(str(ended.code))
    finally:  # whatever happened, a child must not go on as its parent
        if status == 1:
            traceback.print_exc()
        os._exit(status)


def finish(folder: Path, num_epochs: int) -> float:
    """How long a run took that nobody killed."""
    began = time.monotonic()
    _, status = os.waitpid(start(folder, num_epochs), 0)
    assert status == 0, (folder / "stderr.txt").read_text()[-3000:]
    return time.monotonic() - began


def kill_when(folder: Path, num_epochs: int, is_time: Callable[[], bool]) -> bool:
    """Whether a child was still at work when it was time to kill it."""
    child = start(folder, num_epochs)
    while not is_time():
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, (folder / "stderr.txt").read_text()[-3000:]
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), (folder / "stderr.txt").read_text()[-3000:]
    return status != 0


def terminate_after(folder: Path, num_epochs: int, seconds: float) -> int:
    """The exit code of a child that is told to end: 0 if it was done, minus the signal if it had not begun."""
    child = start(folder, num_epochs, saves=False)
    time.sleep(seconds)
    os.kill(child, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def saved_step(folder: Path) -> int:
    """The step of the newest checkpoint; 0 without one."""
    return max((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*[0-9]")), default=0)


def half_saved(folder: Path) -> set[str]:
    """The checkpoints that somebody had begun to write."""
    return {path.name for path in folder.glob("checkpoint-*.partial-*")}


def terminate(folder: Path, num_epochs: int, num_ends: int) -> None:
    """End runs by SIGTERM. At each end that a training noted, the step that it was at is saved."""
    took = finish(folder / "straight", num_epochs)
    moments = random.Random(1)
    num_runs, saved = 0, []
    for _ in range(MOST_LIVES):
        if len(saved) >= num_ends:
            break
        here = folder / f"ended-{num_runs}"
        before = saved_step(here)
        code = terminate_after(here, num_epochs, moments.uniform(0.0, 0.25 * took))
        assert code in (0, 143, -signal.SIGTERM), (here / "stderr.txt").read_text()[-3000:]
        if code == 143:
            saved.append(saved_step(here) - before)
        num_runs += code == 0
    finish(folder / f"ended-{num_runs}", num_epochs)
    print(json.dumps({"saved": saved}))


def _is_past(moment: float) -> bool:
    return time.monotonic() >= moment


def _is_saving(folder: Path, before: set[str]) -> bool:
    return bool(half_saved(folder) - before)


def kill(folder: Path, num_epochs: int, num_kills: int) -> None:
    """Kill runs at random moments, and then at the sight of a half-written checkpoint until one save was hit."""
    took = finish(folder / "straight", num_epochs)
    moments = random.Random(0)
    kills = within_a_save = num_runs = 0
    for _ in range(MOST_LIVES):
        if kills >= num_kills and within_a_save:
            break
        here = folder / f"killed-{num_runs}"
        # On average a life does a tenth of the work, so a run of many lives is killed at every stage of it.
        before, moment = half_saved(here), time.monotonic() + moments.uniform(0.0, 0.25 * took)
        is_time = partial(_is_past, moment) if kills < num_kills else partial(_is_saving, here, before)
        if not kill_when(here, num_epochs, is_time):
            num_runs += 1  # it was done: the next kills hit another run
            continue
        kills += 1
        within_a_save += bool(half_saved(here) - before)
    finish(folder / f"killed-{num_runs}", num_epochs)
    print(json.dumps({"kills": kills, "within_a_save": within_a_save}))


if __name__ == "__main__":
    {"kill": kill, "terminate": terminate}[sys.argv[4]](Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
