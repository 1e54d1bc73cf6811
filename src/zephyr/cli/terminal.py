"""What all commands share on a terminal: escaped text, the --offline option, quiet libraries, disk errors, Ctrl-C."""

import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Annotated

import typer

from zephyr.errors import ResourceError

INTERRUPTED = 130
_DISK_REMEDIES = {
    errno.ENOSPC: "make room, then try again",
    errno.EDQUOT: "make room, then try again",
    errno.EFBIG: "raise the file size limit, then try again",
    errno.EROFS: "choose a writable path",
    errno.EACCES: "change its permissions, or choose another path",
    errno.EPERM: "change its permissions, or choose another path",
    errno.ENOTDIR: "choose another path",
    errno.EISDIR: "name a file",
    errno.ENOENT: "check the path",
    errno.EIO: "check the disk, or choose another path",
}
Offline = Annotated[bool, typer.Option("--offline", help="Use no network.")]


def escape_controls(text: str) -> str:
    """The text with control characters written out, so that quoted data cannot steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class _EscapedRecord(logging.LogRecord):
    """A log record whose text, and whose exception's, cannot steer the terminal."""

    def getMessage(self) -> str:  # noqa: N802 - as logging names it
        if self.exc_info and not self.exc_text:
            # What a formatter finds here it does not make again.
            self.exc_text = escape_controls(logging.Formatter().formatException(self.exc_info))
        return escape_controls(super().getMessage())


def escape_reports() -> None:
    """Escape what libraries report: log records, warnings, and the traceback of an error that nobody expected."""
    logging.setLogRecordFactory(_EscapedRecord)
    plain_warning = warnings.formatwarning

    def formatted(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        return escape_controls(plain_warning(message, category, filename, lineno, line))

    def printed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        print(escape_controls("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)

    warnings.formatwarning = formatted
    sys.excepthook = printed


def disk_mistake(error: OSError) -> ResourceError | None:
    """A disk error in a user's words; None where a user cannot fix it, or no file is named."""
    where = error.filename2 or error.filename
    remedy = _DISK_REMEDIES.get(error.errno or 0)
    if where is None or remedy is None:
        return None
    return ResourceError(os.fsdecode(where), f"cannot be used ({error.strerror})", remedy)


def quiet_libraries(*, offline: bool) -> None:
    """Set up libraries before they are imported: idle threads sleep, no telemetry, no network if `offline`."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Beside one busy program, threads that spin while they wait are 3.5 times slower; sleeping costs a tenth alone.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if offline:
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")


@contextmanager
def can_go_on(how: str = "run the same command again to continue") -> Iterator[None]:
    """End the command on Ctrl-C within the block, with a line on how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped; {how}", err=True)
        raise typer.Exit(INTERRUPTED) from None
