"""The files of a model from a folder or a hub id: its configuration, and the commit that an id stands for.

Nothing here imports torch.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import CONFIG_NAME
from transformers.utils.hub import cached_file, extract_commit_hash

from zephyr.errors import ModelError
from zephyr.models.model_files import (
    CONFIG,
    CONFIG_FILES,
    INDEX,
    check_config,
    check_json_files,
    check_weights,
    read_object,
    shards_of,
)
from zephyr.models.model_name import Source as Source  # noqa: PLC0414  # read from here by all that loads
from zephyr.models.model_name import check_source as check_source  # noqa: PLC0414
from zephyr.records.fields import printable

_MOST_REASON = 300


def load_config(source: Source, *, what: str = "configuration") -> PretrainedConfig:
    """The configuration of `source`; no weight is read. Raises ModelError, which says that `what` cannot be read."""
    check_files(source, CONFIG_FILES)
    with reading(source, what):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            source.name,
            revision=source.revision or "main",
            local_files_only=source.offline,
            trust_remote_code=source.runs_own_code,
        )
    return config


def check_files(source: Source, names: Iterable[str]) -> None:
    """Check a source and its files of these names before a library reads them. Raises ModelError.

    Of a hub id only what says which other files are read.
    """
    check_source(source)
    folder = Path(source.name)
    if folder.is_dir():
        check_json_files(folder, names)
    elif CONFIG in names and (file := local_file(source, CONFIG)) is not None:
        check_config(read_object(file), source.name)


def check_weight_files(source: Source) -> int | None:
    """How many numbers the weights of a source hold by their headers; None where that is not known here.

    Raises ModelError for weights that are not plain safetensors files of it.
    """
    folder = Path(source.name)
    if folder.is_dir():
        return check_weights(folder) or None
    if (index := local_file(source, INDEX)) is not None:
        shards_of(read_object(index), source.name)
    return None


def local_file(source: Source, name: str) -> Path | None:
    """A file of the source on this machine, fetched where it is a hub id; None if there is none."""
    try:
        found = cached_file(source.name, name, revision=source.revision or "main", local_files_only=source.offline)
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found)


@contextmanager
def reading(source: Source, what: str) -> Iterator[None]:
    """Raise ModelError, which says that `what` cannot be read, for whatever a library raises in the block."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise unreadable(source, what, error) from error
    except BaseException as error:
        # What Rust's libraries raise where they did not expect a file to be so.
        if type(error).__name__ != "PanicException":
            raise
        raise unreadable(source, what, RuntimeError(str(error))) from error


def model_folder(source: Source) -> Path:
    """The folder of a model on this machine; a hub id is downloaded first. Raises ModelError."""
    check_source(source)
    if Path(source.name).is_dir():
        return Path(source.name)
    with reading(source, "repository"):
        return Path(
            snapshot_download(
                source.name,
                revision=source.revision,
                local_files_only=source.offline,
                allow_patterns=["*.json", "*.jinja", "*.model", "*.safetensors", "*.txt"],
            )
        )


def resolved_revision(source: Source) -> str | None:
    """The commit that a hub id stands for now; None for a folder. Raises ModelError."""
    check_source(source)
    if Path(source.name).is_dir():
        return None
    try:
        found: str | None = cached_file(
            source.name, CONFIG_NAME, revision=source.revision or "main", local_files_only=source.offline
        )
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(source, "configuration", error) from error
    commit: str | None = extract_commit_hash(found, None)
    return commit


def unreadable(source: Source, what: str, error: Exception) -> ModelError:
    """The error for a user, from what a library raised while it read `source`."""
    if "trust_remote_code" in str(error):
        return ModelError(
            source.name,
            f"its {what} needs Python code that comes with it",
            "read that code, then allow this repository with the commit you have read",
        )
    first, _, more = str(error).strip().partition("\n")
    first += f" {more.strip().partition(chr(10))[0]}" if first.endswith(":") else ""
    reason = printable(first)[:_MOST_REASON] or type(error).__name__
    if not isinstance(error, OSError | ValueError | RuntimeError):
        reason = f"{type(error).__name__}: {reason}"
    if not Path(source.name).is_dir() and (source.offline or "local_files_only" in str(error)):
        return ModelError(
            source.name,
            f"is not a folder, and its {what} is not in the local cache of the hub ({reason})",
            "download it once while online, or name a folder",
        )
    cannot = f"its {what} cannot be read"
    if not Path(source.name).is_dir():
        cannot = f"is not a local folder, and {cannot} from the hub"
    return ModelError(source.name, f"{cannot} ({reason})", "check the name, or fetch it again")
