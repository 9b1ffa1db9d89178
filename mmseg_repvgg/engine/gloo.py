"""Several processes on machines without a GPU: they talk through gloo."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_distributed
from torch import distributed

from ..registry_types import is_a


def start_gloo(cfg: Config) -> None:
    """Have the processes meet through gloo, and set the config up for DDP on CPUs.

    DDP gets no device ids and SyncBN, which torch has for GPUs only, becomes BN.

    Args:
        cfg: With ``launcher`` set; changed in place.
    """
    env_cfg = cfg.get('env_cfg', {})
    dist_cfg = {**env_cfg.get('dist_cfg', {}), 'backend': 'gloo'}
    cfg.env_cfg = {**env_cfg, 'dist_cfg': dist_cfg}
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    _replace_sync_bn(cfg.model)
    if cfg.launcher == 'slurm':
        _export_slurm_environment()
    # mmengine would ask for a CUDA device on the way; a group that is there it leaves be.
    if not is_distributed():
        limit: dict[str, Any] = {}
        if dist_cfg.get('timeout') is not None:
            limit['timeout'] = timedelta(seconds=dist_cfg['timeout'])
        distributed.init_process_group('gloo', **limit)


def _export_slurm_environment() -> None:
    """Set what torch reads from what Slurm sets."""
    slurm = os.environ
    command = ['scontrol', 'show', 'hostname', slurm['SLURM_NODELIST']]
    nodes = subprocess.run(command, capture_output=True, text=True, check=True)
    os.environ.update(
        RANK=slurm['SLURM_PROCID'],
        WORLD_SIZE=slurm['SLURM_NTASKS'],
        LOCAL_RANK=slurm['SLURM_LOCALID'],
        MASTER_ADDR=slurm.get('MASTER_ADDR', nodes.stdout.split()[0]),
        MASTER_PORT=slurm.get('MASTER_PORT', '29500'),
    )


def _replace_sync_bn(cfg: Any) -> None:
    if isinstance(cfg, Mapping):
        if is_a(cfg, 'SyncBN', 'MMSyncBN', 'SyncBatchNorm'):
            cfg['type'] = 'BN'  # type: ignore[index]
        for value in cfg.values():
            _replace_sync_bn(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            _replace_sync_bn(value)
