"""Lock that keeps a second training out of a work dir."""

import contextlib
import os
import socket

from mmengine.config import Config

from ..errors import TrainingError
from .processes import is_first_process

try:
    import fcntl
except ImportError:  # Windows has no record locks, so nothing is locked there.
    fcntl = None  # type: ignore[assignment]

LOCK = 'training.lock'

# The handles stay open, since closing a file releases the lock on it.
_held: dict[str, int] = {}


def lock_work_dir(cfg: Config) -> None:
    """Keep other trainings out of the work dir until this process ends or is killed.

    The main process takes a record lock. Unlike one by ``flock``, it is not inherited by
    a dataloader worker that outlives the trainer. Where the platform or the file system
    has no locks, nothing is locked.

    Raises:
        TrainingError: If another training runs in the work dir.
    """
    if not fcntl or not is_first_process(cfg):
        return
    path = os.path.join(os.path.realpath(cfg.work_dir), LOCK)
    if path in _held:
        os.close(_held.pop(path))
    try:
        os.makedirs(cfg.work_dir, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return  # build_runner reports a folder that cannot be written.
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        first = os.read(handle, 1000).decode(errors='replace').strip()
        os.close(handle)
        raise TrainingError(
            f'a training already runs in the work dir {cfg.work_dir}: {first}. Wait for '
            'its end, or choose another --work-dir'
        ) from error
    except OSError:
        pass  # Some network file systems have no locks.
    _held[path] = handle
    with contextlib.suppress(OSError):  # build_runner reports a full disk.
        os.ftruncate(handle, 0)
        os.write(handle, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
