"""One training per work dir: a second one would mix its checkpoints with the first's."""

from __future__ import annotations

import contextlib
import os
import socket

from mmengine.config import Config

from ..errors import TrainingError

try:
    import fcntl
except ImportError:  # On Windows nothing is locked.
    fcntl = None  # type: ignore[assignment]

LOCK = 'training.lock'

# What each launcher tells a process its rank by. Only the first process writes.
_RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')
# Closing a file gives up the lock on it.
_held: dict[str, int] = {}


def lock_work_dir(cfg: Config) -> None:
    """Keep other trainings out of the work dir until this process ends.

    The system releases the lock when the process ends or is killed. A record lock belongs
    to one process: unlike a lock by ``flock``, it is not kept by a dataloader worker that
    outlives the trainer. Where the platform or the file system has no locks, nothing is
    locked.

    Args:
        cfg: With ``work_dir`` and ``launcher`` set. Of several processes, only the first
            locks.

    Raises:
        TrainingError: If another training is at work there.
    """
    if os.environ.get(_RANKS.get(cfg.get('launcher', ''), ''), '0') != '0' or not fcntl:
        return
    path = os.path.join(os.path.realpath(cfg.work_dir), LOCK)
    if path in _held:
        os.close(_held.pop(path))
    try:
        os.makedirs(cfg.work_dir, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return  # build_runner says what is wrong with the folder.
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
    with contextlib.suppress(OSError):  # The disk is full, as build_runner will say.
        os.ftruncate(handle, 0)
        os.write(handle, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
