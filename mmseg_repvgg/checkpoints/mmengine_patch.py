"""The patch that makes mmengine read checkpoints by :func:`read_checkpoint`.

mmengine unpickles what a checkpoint holds: upstream at once, onedl-mmengine when
``weights_only`` refuses the file. The Runner, ``init_cfg``, mmseg's API and its models
all load by mmengine's ``CheckpointLoader``, so one function of that is replaced.

Written for mmengine 0.10.7 and onedl-mmengine 0.10.12. ``import mmseg_repvgg`` does not
apply it; ``import mmseg_repvgg.safe_loading`` does, which all our configs name in
``custom_imports``, and so do our tools.
"""

from __future__ import annotations

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
    """Let mmengine read every checkpoint of this process by :func:`read_checkpoint`.

    Addresses such as ``https://`` are refused, since mmengine unpickles their files too.

    Args:
        trust: Unpickle whatever a file holds, and allow addresses. The environment
            variable ``MMSEG_REPVGG_TRUST_CHECKPOINT=1`` means the same.
    """

    def choose(_: type, path: str) -> Callable[..., Any]:
        if '://' not in path:
            return load_from_local_file
        if is_trusted(trust):
            return _ORIGINAL.__func__(CheckpointLoader, path)
        return load_from_address

    # mmengine logs a loader's name from its 10th letter on.
    def load_from_local_file(filename: str, map_location: Any = None) -> Any:
        path = os.path.expanduser(filename)
        checkpoint = _ahead.pop(_identity(path), None)
        if checkpoint is None:
            checkpoint = read_checkpoint(path, trust=trust)
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        if isinstance(meta, dict) and not is_trusted(trust):
            # mmengine's Runner.resume would execute it as a config file.
            meta.pop('config', None)
        return checkpoint

    def load_from_address(filename: str, map_location: Any = None) -> Any:
        raise CheckpointError(
            f'{filename} is not a local file: download it and give its path. To have it '
            f'downloaded and unpickled, pass --trust-checkpoint or set {TRUST}=1'
        )

    setattr(CheckpointLoader, _PATCHED, classmethod(choose))


def read_ahead(path: str, *, trust: bool = False) -> Any:
    """Read a checkpoint and keep it for mmengine, which then does not read it again.

    Only the last one is kept. If the file is replaced meanwhile, mmengine reads the new
    one.

    Args:
        path: The file.
        trust: See :func:`~mmseg_repvgg.checkpoints.files.read_checkpoint`.

    Raises:
        CheckpointError: If the file cannot be read.
    """
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
    """Let mmengine read checkpoints its own way again."""
    setattr(CheckpointLoader, _PATCHED, _ORIGINAL)


@contextlib.contextmanager
def loading_safely() -> Iterator[None]:
    """Apply the patch for a while, unless this process has applied it already."""
    if CheckpointLoader.__dict__[_PATCHED] is not _ORIGINAL:
        yield
        return
    make_loading_safe()
    try:
        yield
    finally:
        undo()
