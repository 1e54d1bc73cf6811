"""Where a run can write, and errors of the disk in a user's words."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zephyr.errors import ResourceError

_REMEDIES = {
    errno.ENOSPC: "make room, then run again: what is finished is kept",
    errno.EDQUOT: "make room, then run again: what is finished is kept",
    errno.EFBIG: "raise the limit on file sizes, then run again",
    errno.EROFS: "give another output_dir",
    errno.EACCES: "change its permissions, or give another output_dir",
    errno.EPERM: "change its permissions, or give another output_dir",
    errno.ENOTDIR: "give another output_dir",
    errno.EEXIST: "move it away, or give another output_dir",
    errno.EIO: "repair the disk, or give another output_dir",
}


def writable_folder(output_dir: Path) -> Path:
    """The nearest existing folder above, where the run's folder will be made.

    Raises ResourceError if it is a file or nothing can be written there.
    """
    folder = output_dir.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise ResourceError(str(folder), "is a file where a folder is needed", _REMEDIES[errno.EEXIST])
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ResourceError(str(folder), "is not writable", _REMEDIES[errno.EACCES])
    return folder


@contextmanager
def disk_faults(folder: Path) -> Iterator[None]:
    """Raises ResourceError in place of errors of a full, read-only or broken disk.

    `folder`: the run's, which is named where the error names no file.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        where = str(error.filename2 or error.filename or folder)
        raise ResourceError(where, f"cannot be written ({error.strerror})", _REMEDIES[error.errno]) from error
