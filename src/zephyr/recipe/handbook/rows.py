"""The data of a handbook's recipe: which rows it trains on and which it holds out, in the three ways it says so."""

from typing import NamedTuple

from zephyr.recipe.data_section import is_held_out
from zephyr.recipe.outline import Keys
from zephyr.recipe.problems import Problem, quoted
from zephyr.recipe.section import Plain


class Sources(NamedTuple):
    """Sources of a stage as a recipe writes them, the old keys they come from, and what was wrong or left out."""

    train: list[Plain]
    held_out: list[Plain]
    keys: tuple[str, ...]
    notes: list[str]
    problems: list[Problem]


def find_sources(old: dict[str, Plain]) -> Sources:
    """The rows of a handbook's recipe; training on test rows is a problem."""
    found = Sources([], [], (), [], [])
    if old.get("dataset_mixture") is not None:
        return _from_mixture(old["dataset_mixture"], found)
    if old.get("dataset_mixer") is not None:
        return _from_mixer(old, found)
    if isinstance(old.get("datasets"), list):
        return _from_list(old["datasets"], found)
    if isinstance(old.get("dataset_name"), str):
        return _from_name(old, found)
    remedy = "give dataset_name, datasets, dataset_mixer or dataset_mixture"
    return found._replace(problems=[Problem(("dataset_mixer",), "is missing", remedy)])


def _from_mixer(old: dict[str, Plain], found: Sources) -> Sources:
    """2023 and 2024: every data set of the mixer, each in every split of the list."""
    mixer, splits, configs = old["dataset_mixer"], old.get("dataset_splits"), old.get("dataset_configs")
    if isinstance(splits, dict):
        return _from_mixer_of_two(old, splits, found)
    names = splits if isinstance(splits, list) else ["train", "test"]
    if not isinstance(mixer, dict):
        return _wrong(found, ("dataset_mixer",), mixer, "write `hub id: share` lines")
    for number, (path, share) in enumerate(mixer.items()):
        config = configs[number] if isinstance(configs, list) and number < len(configs) else None
        for split in map(str, names):
            if is_held_out(split):
                found.held_out.append(_source(path, split, config, None))
            elif "train" in split:
                found.train.append(_source(path, split, config, share))
            else:
                found = _wrong(found, ("dataset_splits",), split, "name splits with train or test in them")
    return found._replace(keys=("dataset_mixer", "dataset_splits", "dataset_configs"))


def _from_mixer_of_two(old: dict[str, Plain], splits: dict[str, Plain], found: Sources) -> Sources:
    """A list of splits for training and one for testing, as some forks write it."""
    mixer = old["dataset_mixer"]
    for path, share in mixer.items() if isinstance(mixer, dict) else ():
        for use, names in splits.items():
            for split in map(str, names if isinstance(names, list) else [names]):
                if use == "train" and is_held_out(split):
                    found = _trains_on_test(found, ("dataset_splits", "train"), f"{path} {split}")
                elif use == "train":
                    found.train.append(_source(path, split, None, share))
                else:
                    found.held_out.append(_source(path, split, None, None))
    return found._replace(keys=("dataset_mixer", "dataset_splits"))


def _from_name(old: dict[str, Plain], found: Sources) -> Sources:
    """2025 with a single data set."""
    path, config = str(old["dataset_name"]), old.get("dataset_config")
    split = str(old.get("dataset_train_split") or "train")
    if is_held_out(split):
        found = _trains_on_test(found, ("dataset_train_split",), f"{path} {split}")
    found.train.append(_source(path, split, config, None))
    if isinstance(old.get("dataset_test_split"), str):
        found.held_out.append(_source(path, str(old["dataset_test_split"]), config, None))
    elif old.get("eval_strategy") not in (None, "no", False):
        found.held_out.append(_source(path, "test", config, None))
        found.notes.append("dataset_test_split is TRL's default: rows of the split test are held out")
    keys = ("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split")
    return found._replace(keys=keys)


def _from_list(listed: Plain, found: Sources) -> Sources:
    """TRL's list of data sets, of which a share is held out by `test_split_size`."""
    for number, entry in enumerate(listed if isinstance(listed, list) else ()):
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            found = _wrong(found, ("datasets", number), entry, "write path, name and split")
            continue
        split = str(entry.get("split") or "train")
        if is_held_out(split):
            found = _trains_on_test(found, ("datasets", number), f"{entry['path']} {split}")
        source = _source(str(entry["path"]), split, entry.get("name"), None)
        if isinstance(source, dict) and entry.get("data_dir") is not None:
            source["config"] = entry["data_dir"]
        found.train.append(source)
        if "columns" in entry:
            found.notes.append(f"datasets.{number}.columns is left out: the fields of a row tell its shape")
    return found._replace(keys=("datasets",))


def _from_mixture(mixture: Plain, found: Sources) -> Sources:
    """2025: one list that is shuffled and then cut into train and test rows, whatever its splits are called."""
    key = "dataset_mixture"
    entries = mixture.get("datasets") if isinstance(mixture, dict) else None
    if not isinstance(mixture, dict) or not isinstance(entries, list):
        return _wrong(found, (key,), mixture, "write a list of data sets under dataset_mixture.datasets")
    kept = mixture.get("eval_datasets")
    for target, listed in ((found.train, entries), (found.held_out, kept if isinstance(kept, list) else [])):
        for number, entry in enumerate(listed):
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
                found = _wrong(found, (key, "datasets", number), entry, "write id, config, split and weight")
                continue
            split = str(entry.get("split") or "train")
            if target is found.train and is_held_out(split):
                found = _trains_on_test(found, (key, "datasets", number), f"{entry['id']} {split}")
            target.append(_source(str(entry["id"]), split, entry.get("config"), entry.get("weight")))
    if "seed" in mixture:
        found.notes.append("dataset_mixture.seed is left out: every random choice follows from seed")
    if any(isinstance(entry, dict) and "columns" in entry for entry in entries):
        found.notes.append("dataset_mixture.datasets.columns is left out: the fields of a row tell its shape")
    return found._replace(keys=(key,))


def _source(path: str, split: str, config: Plain, share: Plain) -> Plain:
    """A source of a recipe; what is as by default is not written."""
    source: dict[str, Plain] = {"path": path, "split": split}
    if config not in (None, "default"):
        source["config"] = config
    if share not in (None, 1, 1.0):
        source["weight"] = share
    return source


def _trains_on_test(found: Sources, keys: Keys, rows: str) -> Sources:
    instead = {
        "datasets": "name a train split here, and hold rows out by test_split_size",
        "dataset_mixture": "move this entry from `datasets` to a list `eval_datasets` beside it",
        "dataset_splits": "name this split under `test`",
        "dataset_train_split": "name a train split here, and this one as dataset_test_split",
    }
    problem = Problem(keys, f"trains on test rows, got {rows}", instead[str(keys[0])])
    return found._replace(problems=[*found.problems, problem])


def _wrong(found: Sources, keys: Keys, value: Plain, remedy: str) -> Sources:
    return found._replace(problems=[*found.problems, Problem(keys, f"cannot be read{quoted(value)}", remedy)])
