"""Refuse named pipes, devices and sockets, whose reading may never end."""

from __future__ import annotations

import errno
import os
import stat


def refuse_special_file(path: str | os.PathLike[str]) -> None:
    """Raise an error for a named pipe, a device or a socket, also behind a link.

    Call it before a path is opened or replaced. Missing files, folders and addresses of
    storage services pass, and fail when they are opened.

    Args:
        path: The path to check.

    Raises:
        OSError: If it is a special file.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        what = 'it is a named pipe, a device or a socket, not a regular file'
        raise OSError(errno.EINVAL, what, str(path))
