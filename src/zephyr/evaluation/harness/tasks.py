"""Tasks by name: lm-eval's own definitions, with their data from the hub or from local copies.

A task is known by the definition files that come with lm-eval, so an unknown name is refused before anything is
loaded; so is a task whose data cannot be had.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from zephyr.errors import DataError, did_you_mean
from zephyr.evaluation.harness.local_data import Doc, LocalCopy, local_copies
from zephyr.evaluation.harness.profiles import JUDGED, PROFILES, Wanted
from zephyr.judging.checks import provide_sentence_splitter
from zephyr.records.fields import brief

FEWSHOT_SEED = 1234  # lm-eval's own
MMLU = "mmlu"
# Definitions that a copy of the data can stand in for.
_DEFINITIONS = {
    "arc_challenge": "arc/arc_challenge.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1.yaml",
    "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
    "winogrande": "winogrande/default.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
    "drop": "drop/default.yaml",
    "ifeval": "ifeval/ifeval.yaml",
}
_SEE = "their list is printed by `lm_eval ls tasks`"
_NAME = re.compile(r"""^["']?(task|group)["']?\s*:\s*["']?([\w.+-]+)["']?\s*$""", re.MULTILINE)


class TaskConfig(Protocol):
    """What lm-eval keeps of a task's definition."""

    num_fewshot: int | None
    dataset_path: str | None
    dataset_name: str | None
    metadata: dict[str, object] | None
    output_type: str
    generation_kwargs: dict[str, object] | None

    def to_dict(self) -> dict[str, object]: ...


class LmEvalRequest(Protocol):
    """A request of lm-eval: which document of which task it is about, and its arguments."""

    task_name: str
    doc_id: int
    args: tuple[object, ...]


class LmEvalTask(Protocol):
    """A task of lm-eval with its data loaded."""

    config: TaskConfig
    VERSION: object
    eval_docs: Sequence[Mapping[str, object]]

    instances: list[LmEvalRequest]

    def build_all_requests(self, *, limit: int | None) -> None: ...

    def fewshot_docs(self) -> Sequence[Mapping[str, object]]: ...

    def set_config(self, key: str, value: object) -> None: ...

    def set_fewshot_seed(self, seed: int) -> None: ...


class TaskIndex(Protocol):
    """Lm-eval's definitions by name or file."""

    def load(self, task_list: list[str]) -> dict[str, dict[str, LmEvalTask]]: ...


class LoadedTask(NamedTuple):
    """A task, the name it was requested by (its own or a group's), and how its numbers deviate from the definition."""

    task: LmEvalTask
    requested_as: str
    is_local: bool
    deviations: tuple[str, ...]


def quiet_harness() -> None:
    """Let lm-eval and its data library log errors alone, and tokenizers no false alarm."""
    import datasets  # type: ignore[import-untyped]

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # They warn of texts longer than the model, which lm-eval cuts.
    logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)
    datasets.disable_progress_bars()


def load_tasks(
    wanted: Sequence[Wanted], *, data_dir: Path | None, offline: bool, include_path: Path | None = None
) -> dict[str, LoadedTask]:
    """The tasks by name, with data; a group gives its members. Raises DataError for the first that cannot be had.

    Definitions in the folder ``include_path`` go before those of lm-eval with the same name.
    """
    subjects = mmlu_subjects()
    copies = local_copies(subjects)
    definitions = _DEFINITIONS | {f"{MMLU}_{subject}": f"mmlu/default/mmlu_{subject}.yaml" for subject in subjects}
    own = {} if include_path is None else _defined_in(include_path)
    foreign = [one.name for one in wanted if one.name in own or (one.name not in definitions and one.name != MMLU)]
    files = (_defined_in(_tasks_folder()) if set(foreign) - {*own} else {}) | own
    _check_names(foreign, files, [*definitions, MMLU, *PROFILES, *JUDGED, *own])
    quiet_harness()
    # A group may have members anywhere: lm-eval looks them up in an index, for which it reads 14,000 files.
    index = cache(partial(_index, include_path))
    found: dict[str, LoadedTask] = {}
    for name, shots in wanted:
        if name in foreign:
            found |= _as_defined(name, shots, files[name], index)
            continue
        for member in [f"{MMLU}_{subject}" for subject in subjects] if name == MMLU else [name]:
            said = provide_sentence_splitter(offline=offline) if member == "ifeval" else ()
            copy = copies[member] if data_dir is not None else None
            local = (copies[member], data_dir) if data_dir is not None else None
            task = _with_shots(_built(member, _definition(definitions[member]), local), shots)
            found[member] = LoadedTask(task, name, local is not None, (*said, *(copy.deviations if copy else ())))
    return found


def build_requests(tasks: Iterable[LmEvalTask], *, limit: int | None) -> list[LmEvalRequest]:
    """All requests of the first `limit` documents of each task, as lm-eval builds them, without a chat template."""
    found: list[LmEvalRequest] = []
    for task in tasks:
        task.build_all_requests(limit=limit)
        found += task.instances
    return found


def mmlu_subjects() -> tuple[str, ...]:
    """The 57 subjects, in alphabetical order."""
    files = (_tasks_folder() / "mmlu" / "default").glob("mmlu_*.yaml")
    return tuple(sorted(file.stem.removeprefix("mmlu_") for file in files))


def _tasks_folder() -> Path:
    """Where lm-eval keeps its definitions; found without importing it."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise DataError("tasks", "need lm-eval, which is not installed", "pip install 'zephyr-align[eval]'")
    return Path(spec.origin).parent / "tasks"


def _check_names(names: Sequence[str], known: Collection[str], own: Sequence[str]) -> None:
    """Check that every name is a known task or group. Raises DataError; tags are not looked for."""
    for name in names:
        if name not in known:
            # Our own first: a misspelt `arc_challenge` does not mean one of 14,000 others.
            is_near = "did you mean" in did_you_mean(name, own)
            raise DataError("--tasks", f"unknown task '{name}'{did_you_mean(name, own if is_near else known)}", _SEE)


def _defined_in(folder: Path) -> dict[str, Path | None]:
    """The tasks and groups that the YAML files in a folder define, and the file of each that is a single task."""
    found: dict[str, Path | None] = {}
    for file in sorted(folder.rglob("*.yaml")):
        names = _NAME.findall(file.read_text(encoding="utf-8", errors="replace"))
        is_group = any(kind == "group" for kind, _ in names)
        for _, name in names:
            # Of two with one name lm-eval takes the first.
            found.setdefault(name, None if is_group else file)
    return found


def _definition(file: str) -> dict[str, object]:
    """A definition of lm-eval with its functions."""
    from lm_eval.tasks._yaml_loader import load_yaml  # type: ignore[import-untyped]

    config = dict(load_yaml(_tasks_folder() / file, resolve_func=True))
    for structural in ("tag", "group", "task_list"):
        config.pop(structural, None)
    return config


def _built(name: str, config: dict[str, object], local: tuple[LocalCopy, Path] | None) -> LmEvalTask:
    """The task with its data. Raises DataError if the data cannot be had."""
    from lm_eval.api.task import ConfigurableTask  # type: ignore[import-untyped]

    if local is not None:
        copy, folder = local
        # Read before lm-eval asks for it, so that what is wrong with a file is said in our words.
        config["custom_dataset"] = partial(_as_datasets, copy.load(folder))
    with _data_errors_translated(name, f"{config.get('dataset_path')} {config.get('dataset_name') or ''}".strip()):
        return cast("LmEvalTask", ConfigurableTask(config=config))


def _as_datasets(splits: Mapping[str, Sequence[Doc]], **_metadata: object) -> dict[str, object]:
    import datasets

    return {name: datasets.Dataset.from_list(list(docs)) for name, docs in splits.items()}


@contextmanager
def _data_errors_translated(name: str, dataset: str) -> Iterator[None]:
    """Inside, what the datasets library raises for data that cannot be had becomes a DataError of one line."""
    from datasets.exceptions import DatasetsError  # type: ignore[import-untyped]

    try:
        yield
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        said = brief(f"{type(error).__name__}: {error}")
        copy = local_copies(mmlu_subjects()).get(name)
        files = f", or put {' and '.join(copy.files)} into a folder and name it with --data" if copy else ""
        what = f"its data set {dataset} is neither cached nor reachable ({said})"
        raise DataError(f"task {name}", what, f"run once without --offline where there is network{files}") from error


def _index(include_path: Path | None) -> TaskIndex:
    from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

    return cast("TaskIndex", TaskManager(include_path=None if include_path is None else str(include_path)))


def _as_defined(
    name: str, shots: int | None, file: Path | None, index: Callable[[], TaskIndex]
) -> dict[str, LoadedTask]:
    """The task that the file defines, or the members of a group by the index. Raises DataError."""
    from lm_eval.tasks import TaskManager

    with _data_errors_translated(name, "as lm-eval defines it"):
        try:
            manager = index() if file is None else cast("TaskIndex", TaskManager(include_defaults=False))
            tasks = manager.load([name if file is None else str(file)])["tasks"]
        except (KeyError, TypeError) as error:
            # Lm-eval takes a member that nobody defines for a task without data.
            what = f"its definition cannot be used ({brief(f'{type(error).__name__}: {error}')})"
            raise DataError(f"task {name}", what, "check the names of its members, and of its data set") from error
    return {member: LoadedTask(_with_shots(task, shots), name, False, ()) for member, task in tasks.items()}


def _with_shots(task: LmEvalTask, shots: int | None) -> LmEvalTask:
    """The task with the requested number of shots, drawn as lm-eval draws them.

    A definition that says 0 keeps it, as in lm-eval: its prompt holds all the examples it should.
    """
    own = task.config.num_fewshot
    if own is None or (own and shots is not None):
        task.set_config("num_fewshot", shots or 0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return task
