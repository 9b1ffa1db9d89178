"""One training per work dir: a second one would mix its checkpoints with the first's."""

from __future__ import annotations

import os
import socket
from typing import IO

from mmengine.config import Config

from ..errors import TrainingError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked.
    fcntl = None  # type: ignore[assignment]

LOCK = 'training.lock'

# What each launcher tells a process its rank by. Only the first process writes.
_RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')
# Closing a file gives up the lock on it.
_held: dict[str, IO[str]] = {}


def lock_work_dir(cfg: Config) -> None:
    """Keep other trainings out of the work dir until this process ends, however it does.

    The system gives up the lock of a process that is killed, and the record lock that is
    taken here belongs to the process alone: a dataloader's worker that outlives it does
    not keep it. Where the file system or the platform has no locks, nothing is locked.

    Args:
        cfg: With ``work_dir`` and ``launcher`` set; of several processes, the first locks.

    Raises:
        TrainingError: If another training is at work there.
    """
    if os.environ.get(_RANKS.get(cfg.get('launcher', ''), ''), '0') != '0' or not fcntl:
        return
    path = os.path.join(os.path.realpath(cfg.work_dir), LOCK)
    if path in _held:
        _held.pop(path).close()
    try:
        os.makedirs(cfg.work_dir, exist_ok=True)
        file = open(path, 'a+')  # noqa: SIM115
    except OSError:
        return  # build_runner says what is wrong with the folder.
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        with file:
            raise TrainingError(
                f'a training already runs in the work dir {cfg.work_dir}: '
                f'{file.read().strip()}. Wait until it has ended, or choose another '
                '--work-dir'
            ) from error
    except OSError:
        pass  # Some network file systems have no locks.
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    _held[path] = file
