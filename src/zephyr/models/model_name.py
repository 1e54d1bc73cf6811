"""A model as it is named: a folder or a hub id, checked before any library that could read it is loaded.

Nothing here imports transformers or torch: a misspelt name is told at once.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from zephyr.errors import ModelError
from zephyr.models.model_files import CONFIG
from zephyr.recipe.model_section import TrustedCodeSection
from zephyr.records.fields import printable

# How long the hub may take to say that it has a model.
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a folder, or a hub id with an optional revision."""

    name: str
    revision: str | None = None
    offline: bool = False
    trusted_code: TrustedCodeSection | None = None

    @property
    def runs_own_code(self) -> bool:
        """Whether the code in this very repository and revision was allowed."""
        code = self.trusted_code
        return code is not None and (code.repository, code.revision) == (self.name, self.revision)


def check_named(name: str, *, offline: bool) -> None:
    """Check what a user has named as a model, before anything heavy is loaded. Raises ModelError."""
    source = Source(name, offline=offline)
    check_source(source)
    if not Path(name).is_dir() and (offline or _is_offline()) and not _is_cached(source):
        what = "is not a folder, and it is not in the local cache of the hub"
        raise ModelError(name, what, "download it once while online, or name a folder")


def check_source(source: Source) -> None:
    """Check that a source is well-formed and, where it can only be a folder, there. Raises ModelError."""
    trusted = source.trusted_code
    if trusted is not None and not source.runs_own_code:
        raise ModelError(
            source.name,
            f"code was allowed for {trusted.repository} at {trusted.revision}, not at {source.revision}",
            "name the same repository and the same revision for the model and for its code",
        )
    folder = Path(source.name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            _refuse_adapters(folder)
            raise ModelError(source.name, "has no config.json, so it is not a model folder", _folder_below(folder))
    elif folder.is_file():
        raise ModelError(source.name, "is a file, not a model folder", "name the folder with its config.json")
    elif _is_path(source.name):
        raise ModelError(source.name, "there is no such folder", "check the path")
    elif not (source.offline or _is_offline()):
        _check_hub(source)


def _refuse_adapters(folder: Path) -> None:
    """Raise ModelError if the folder holds LoRA adapters: it names their base, and a merged model beside them."""
    settings = folder / "adapter_config.json"
    if not settings.is_file():
        return
    try:
        found = json.loads(settings.read_bytes())
    except (OSError, ValueError):
        found = None
    base = found.get("base_model_name_or_path") if isinstance(found, dict) else None
    of = f"of the base model '{printable(str(base))}'" if base else "whose adapter_config.json names no base model"
    remedy = (
        "merge them into it first: PeftModel.from_pretrained(base, folder).merge_and_unload(), then save_pretrained"
    )
    beside = folder.parent / "model"
    if (beside / "config.json").is_file():
        remedy = f"name the merged model beside it, '{beside}'"
    raise ModelError(str(folder), f"holds LoRA adapters {of}, and no model to start from", remedy)


def _folder_below(folder: Path) -> str:
    """The remedy for a folder that may be a run's or a stage's: it names the newest model in it."""
    found = [*folder.glob("model/config.json"), *folder.glob("[!.]*/model/config.json")]
    newest = max((path.parent for path in found), key=lambda model: model.stat().st_mtime, default=None)
    return "name the folder with it" if newest is None else f"name the folder with it; did you mean '{newest}'?"


def _is_path(name: str) -> bool:
    """Whether `name` can only be a path; hub ids are `name` or `owner/name`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _is_cached(source: Source) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(source.name, CONFIG, revision=source.revision or "main"), str)
    except ValueError:  # no name that the hub can have
        return False


@cache
def _check_hub(source: Source) -> None:
    """Ask the hub once for a model that is not in its cache. Raises ModelError where no library need try again."""
    if _is_cached(source):
        return
    import httpx2
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        url = hf_hub_url(source.name, CONFIG, revision=source.revision)
        get_hf_file_metadata(url, timeout=_PATIENCE_SECONDS)
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        what = f"is not a folder, and the hub cannot be reached ({printable(str(error))})"
        raise ModelError(source.name, what, "check the name and the network, or download the model first") from error
    except RepositoryNotFoundError as error:
        what = "is not a folder, and the hub has no such model, or it is private"
        raise ModelError(source.name, what, "check the name, or log in with `hf auth login`") from error
    except (httpx2.HTTPError, OSError, ValueError):  # said better by the library that reads it
        return
