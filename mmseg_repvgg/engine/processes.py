"""Processes of a training: their number and rank, and gloo where there is no GPU."""

import os
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from mmengine.config import Config
from mmengine.dist import is_distributed
from torch import distributed

from ..errors import ConfigError
from ..registry_types import is_a

RANK_VARIABLES: Final = dict(
    pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK'
)
_COUNT_VARIABLES: Final = dict(
    pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE'
)


def check_launcher(cfg: Config) -> None:
    """Check that a config's launcher is the one that started this process.

    Raises:
        ConfigError: If it is not.
    """
    launcher, count = cfg.get('launcher', 'none'), os.environ.get('WORLD_SIZE', '1')
    variable = RANK_VARIABLES.get(launcher)
    if variable and variable not in os.environ:
        raise ConfigError(
            f'--launcher {launcher} did not start this process: {variable} is not set. '
            'Start it by the launcher, such as torchrun for pytorch, or leave it out'
        )
    if variable is None and 'TORCHELASTIC_RUN_ID' in os.environ and count != '1':
        raise ConfigError(
            f'torchrun started {count} processes, each of which would do the whole work: '
            'add --launcher pytorch, or start the command without torchrun'
        )


def count_processes(cfg: Config) -> int:
    """Return the number of processes, also before they are connected."""
    variable = _COUNT_VARIABLES.get(cfg.get('launcher', 'none'))
    return int(os.environ[variable]) if variable else 1


def is_first_process(cfg: Config) -> bool:
    """Return whether this is the main process, also before they are connected."""
    variable = RANK_VARIABLES.get(cfg.get('launcher', 'none'))
    return variable is None or os.environ.get(variable, '0') == '0'


def start_gloo(cfg: Config) -> None:
    """Connect the processes through gloo and adapt the config to DDP on CPUs.

    DDP gets no device ids, and SyncBN, which torch has for GPUs only, becomes BN.
    """
    env_cfg = cfg.get('env_cfg') or {}
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
    # mmengine would ask for a CUDA device here, but keeps a group that exists already.
    if not is_distributed():
        seconds = dist_cfg.get('timeout') or 1800
        distributed.init_process_group('gloo', timeout=timedelta(seconds=seconds))


def _export_slurm_environment() -> None:
    """Set the variables that torch reads from those that Slurm sets."""
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
        cfg = list(cfg.values())
    if isinstance(cfg, (list, tuple)):
        for value in cfg:
            _replace_sync_bn(value)
