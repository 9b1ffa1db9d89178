"""Patch mmengine to read checkpoints with :func:`~.files.read_checkpoint`.

mmengine unpickles checkpoints, which can run code: upstream always, onedl-mmengine if
``weights_only`` refuses the file. The Runner, ``init_cfg`` and mmseg's API all load with
mmengine's ``CheckpointLoader``, so one of its functions is replaced.

The patch was written for mmengine 0.10.7 and onedl-mmengine 0.10.12. Our tools apply it,
and so does ``import mmseg_repvgg.safe_loading``, which our configs name in
``custom_imports``. ``import mmseg_repvgg`` does not. :func:`undo` removes it.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError
from .files import TRUST, is_trusted, read_checkpoint

_PATCHED = '_get_checkpoint_loader'
_ORIGINAL = CheckpointLoader.__dict__[_PATCHED]
_ahead: dict[tuple[Any, ...], Any] = {}


def make_loading_safe(trust: bool = False) -> None:
    """Make mmengine read all checkpoints of this process safely.

    URLs such as ``https://`` are refused, since mmengine unpickles their files. With
    ``trust``, or ``MMSEG_REPVGG_TRUST_CHECKPOINT=1`` in the environment, files may run
    code while they are read, and URLs are allowed.
    """

    def choose(_: type, path: str) -> Callable[..., Any]:
        if '://' not in path:
            return load_from_local_file
        if is_trusted(trust):
            return _ORIGINAL.__func__(CheckpointLoader, path)
        raise CheckpointError(
            f'{path} is a URL: download it and give the path of the file. To have it '
            f'downloaded and unpickled, pass --trust-checkpoint or set {TRUST}=1'
        )

    # mmengine logs the name of the loader from its 10th letter on.
    def load_from_local_file(filename: str, map_location: Any = None) -> Any:
        path = os.path.expanduser(filename)
        checkpoint = _ahead.pop(_identity(path), None)
        if checkpoint is None:
            checkpoint = read_checkpoint(path, trust=trust)
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        if isinstance(meta, dict) and not is_trusted(trust):
            # Runner.resume of mmengine would execute it as a config file.
            meta.pop('config', None)
        return checkpoint

    setattr(CheckpointLoader, _PATCHED, classmethod(choose))


def read_ahead(path: str, *, trust: bool = False) -> Any:
    """Read a checkpoint and keep it for mmengine, which then does not read it again.

    Only the last one is kept. If the file is replaced meanwhile, mmengine reads the new
    one. Arguments and errors are those of :func:`~.files.read_checkpoint`.
    """
    path = os.path.expanduser(path)
    identity = _identity(path)
    if identity not in _ahead:
        _ahead.clear()
        _ahead[identity] = read_checkpoint(path, trust=trust)
    return _ahead[identity]


def _identity(path: str) -> tuple[Any, ...]:
    """Return a key that changes when a file is replaced."""
    try:
        status = os.stat(path)
    except OSError:  # read_checkpoint says what is wrong with the file.
        return (path,)
    return os.path.abspath(path), status.st_ino, status.st_mtime_ns, status.st_size


def undo() -> None:
    """Remove the patch."""
    setattr(CheckpointLoader, _PATCHED, _ORIGINAL)


@contextlib.contextmanager
def loading_safely() -> Iterator[None]:
    """Apply the patch temporarily, unless it is applied already."""
    if CheckpointLoader.__dict__[_PATCHED] is not _ORIGINAL:
        yield
        return
    make_loading_safe()
    try:
        yield
    finally:
        undo()
