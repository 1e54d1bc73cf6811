"""Publishing on the Hugging Face hub: a repository is made where there is none, and gets the files it does not have.

A push that was interrupted goes on when it is repeated: files that are there are not sent again.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zephyr.errors import RecipeError, ResourceError
from zephyr.recipe.section import REPO
from zephyr.records.fields import brief

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from zephyr.deliver.push_files import RepoFiles
    from zephyr.recipe.stage_sections import PushSection

_LOGIN = "log in (hf auth login) or set HF_TOKEN, with a token that may write"
_AGAIN = "run the same command again: nothing is transferred twice"
# By status: what is wrong, and what to do.
_REFUSALS = {
    401: ("does not accept the token", _LOGIN),
    403: ("does not let this token write there", "use a token with write permission for that owner, or another owner"),
    404: ("has no such repository or owner, or hides it from this token", f"check the name, and {_LOGIN}"),
    409: ("refuses, as somebody else changes the repository now, or the name is taken", _AGAIN),
    412: ("refuses, as the repository has changed meanwhile", _AGAIN),
    413: ("refuses a file or commit of this size", "install hf_xet, which sends large files in parts, then run again"),
    429: ("has too many requests of yours", f"wait some minutes, then {_AGAIN}"),
}


class Pushed(NamedTuple):
    """A repository that now has the files."""

    url: str
    num_files: int
    num_bytes: int


@dataclass(frozen=True)
class Target:
    """A repository: its name, and whether it is to be private where it is made."""

    repo: str
    private: bool = False


def check_target(target: Target, *, offline: bool) -> None:
    """Check that there is a token, and a network to be used. Raises RecipeError or ResourceError."""
    where = f"hub repository {brief(target.repo)}"
    if re.fullmatch(REPO, target.repo) is None:
        what = "is no name of a repository" if "/" in target.repo else "names no owner"
        raise RecipeError(where, what, "write OWNER/NAME")
    from huggingface_hub import constants, get_token

    if offline or constants.HF_HUB_OFFLINE:
        raise RecipeError(where, "cannot be reached offline", "leave out offline and HF_HUB_OFFLINE")
    if get_token() is None:
        raise ResourceError(where, "needs a token, and there is none", _LOGIN)


def push_files(files: "RepoFiles", target: Target, message: str) -> Pushed:
    """The repository, which has the files now. Raises ResourceError for what the hub refuses."""
    from huggingface_hub import HfApi

    api = HfApi(library_name="zephyr")
    with hub_refusals(target.repo):
        url = str(api.create_repo(target.repo, repo_type=files.kind, private=target.private or None, exist_ok=True))
        _check_private(api, target, files.kind)
        with tempfile.TemporaryDirectory(prefix="zephyr-push-") as folder:
            _lay_out(files, Path(folder))
            api.upload_folder(
                repo_id=target.repo,
                repo_type=files.kind,
                folder_path=folder,
                commit_message=message,
                delete_patterns=files.replaces,
            )
    return Pushed(url, len(files.uploads), files.num_bytes)


def push_run(folder: Path, section: "PushSection") -> list[Pushed]:
    """The repositories of a finished run: its model's, and its data's if the recipe names one. Raises ZephyrError."""
    from zephyr.deliver.push_files import data_of, files_of

    pushed = []
    with tempfile.TemporaryDirectory(prefix="zephyr-rows-") as work:
        files = files_of(folder, Path(work))
        # All are looked at before the first is sent.
        data = data_of(folder, Path(work)) if section.data_repo else None
        pushed.append(push_files(files, Target(section.repo, section.private), f"Model of {folder.name}"))
        if data is not None and section.data_repo:
            pushed.append(push_files(data, Target(section.data_repo, section.private), f"Data of {folder.name}"))
    return pushed


def file_from_hub(name: str) -> Path:
    """The file of a name OWNER/NAME/FILE, downloaded from that model repository. Raises ResourceError."""
    from huggingface_hub import hf_hub_download

    repo, _, file = name.rpartition("/")
    with hub_refusals(repo):
        return Path(hf_hub_download(repo, file))


def listing(files: "RepoFiles", target: Target) -> Iterator[str]:
    """Lines on what would be published where."""
    kind = "dataset" if files.kind == "dataset" else "model"
    yield f"{kind} {target.repo}{' (private)' if target.private else ''}: {_size(files.num_bytes)}"
    for one in files.uploads:
        yield f"{_size(one.num_bytes):>12}  {one.name}"
    yield from files.notes


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError


def _check_private(api: "HfApi", target: Target, kind: str) -> None:
    """Raise ResourceError for a public repository that is to be private: the hub leaves it as it is."""
    if target.private and not api.repo_info(target.repo, repo_type=kind).private:
        what = "is public already, and is to be private"
        raise ResourceError(target.repo, what, "make it private in its settings, or choose another name")


def _lay_out(files: "RepoFiles", folder: Path) -> None:
    """Put the files under their names into the folder: links to those that are here, and those that were made."""
    for one in files.uploads:
        place = folder / one.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(one.content, bytes):
            place.write_bytes(one.content)
            continue
        try:
            place.symlink_to(one.content.resolve())
        except OSError:  # Windows lets few users make links
            shutil.copyfile(one.content, place)


@contextmanager
def hub_refusals(repo: str) -> Iterator[None]:
    """Raises ResourceError in place of the library's errors of the hub, the network and the token."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        told = _REFUSALS.get(status)
        if told is None and status >= 500:
            told = ("has a fault of its own", f"wait, then {_AGAIN}")
        what, remedy = told or ("refuses", _AGAIN)
        said = f": {brief(error.server_message)}" if error.server_message else ""
        raise ResourceError(repo, f"the hub {what} (HTTP {status}{said})", remedy) from error
    except errors.LocalTokenNotFoundError as error:
        raise ResourceError(repo, "needs a token, and there is none", _LOGIN) from error
    except (
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,  # what was not downloaded before, and cannot be now
        httpx2.TransportError,
        ConnectionError,
    ) as error:
        what = f"the hub cannot be reached ({brief(f'{type(error).__name__}: {error}')})"
        raise ResourceError(repo, what, f"check the network and HF_ENDPOINT, then {_AGAIN}") from error
    except (errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise ResourceError(repo, f"has no such file ({brief(str(error))})", "check the name") from error
