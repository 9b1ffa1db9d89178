"""One way of loading for everything that mmengine loads in this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError
from .files import read_checkpoint


def make_loading_safe(trust: bool = False) -> None:
    """Let mmengine read every checkpoint by :func:`read_checkpoint`.

    mmengine tries ``weights_only`` and then unpickles all the same. After this call
    ``load_from``, ``resume`` and ``init_cfg`` refuse what would need that, and refuse
    addresses, whose files mmengine unpickles too.

    Args:
        trust: Unpickle whatever a file holds, and allow addresses.
    """

    # mmengine logs a loader's name from its 10th letter on.
    def load_from_local_file(filename: str, map_location: Any = None) -> Any:
        path = os.path.expanduser(filename)
        return read_checkpoint(path, trust=trust, map_location=map_location)

    def load_from_address(filename: str, map_location: Any = None, **_: Any) -> Any:
        raise CheckpointError(
            f'{filename} is not a local file: download it and give its path, or pass '
            '--trust-checkpoint to have it downloaded and unpickled'
        )

    if not trust:
        for prefix in list(CheckpointLoader._schemes):
            if prefix:
                CheckpointLoader.register_scheme(prefix, load_from_address, force=True)
    CheckpointLoader.register_scheme('', load_from_local_file, force=True)


def find_resumable(work_dir: str, trust: bool = False) -> str | None:
    """Find the newest checkpoint of a work dir that can be read whole.

    Args:
        work_dir: Where a training wrote ``last_checkpoint`` and ``iter_*.pth`` or
            ``epoch_*.pth``.
        trust: Unpickle whatever a file holds.

    Returns:
        Its path; None if the folder has no checkpoint.

    Raises:
        CheckpointError: If there are checkpoints but none can be read.
    """
    folder = Path(work_dir)
    found = [*folder.glob('iter_*.pth'), *folder.glob('epoch_*.pth')]
    candidates = sorted(found, key=_step, reverse=True)
    complaints = []
    for path in candidates:
        try:
            checkpoint = read_checkpoint(path, trust=trust)
            if not {'meta', 'state_dict', 'optimizer'} <= set(checkpoint):
                raise CheckpointError(f'{path} is no checkpoint of a training')
        except (CheckpointError, TypeError) as error:
            complaints.append(str(error))
            print_log(f'skipped when resuming: {error}', 'current', level=30)
            continue
        return str(path)
    if complaints:
        raise CheckpointError(
            f'none of the {len(complaints)} checkpoints in {work_dir} can be resumed '
            f'from; of the newest: {complaints[0]}'
        )
    return None


def _step(path: Path) -> int:
    number = path.stem.split('_')[-1]
    return int(number) if number.isdigit() else -1
