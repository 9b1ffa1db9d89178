"""Files that are not regular: opening a named pipe waits, and a device never ends."""

from __future__ import annotations

import errno
import os
import stat


def refuse_special_file(path: str | os.PathLike[str]) -> None:
    """Refuse a named pipe, a device or a socket, also behind a link.

    To be called before a path is opened or replaced. A path that does not exist, or is a
    folder, is left to the error of opening it.

    Args:
        path: The path; an address of a storage service passes.

    Raises:
        OSError: If it is none of a file, a folder and nothing.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        what = 'it is a named pipe, a device or a socket, not a regular file'
        raise OSError(errno.EINVAL, what, str(path))
