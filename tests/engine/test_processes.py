"""Launchers of several processes, and configs for them without a GPU."""

import pytest
from torch import nn

from mmseg_repvgg.engine.processes import _replace_sync_bn
from mmseg_repvgg.engine.training import prepare_training
from mmseg_repvgg.errors import ConfigError


def test_processes_of_torchrun_need_the_launcher(street_config, monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ConfigError, match='torchrun started 2 .*--launcher pytorch'):
        prepare_training(street_config)


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_a_launcher_that_did_not_start_the_process_is_named(street_config, launcher):
    street_config.launcher = launcher
    with pytest.raises(ConfigError, match=f'--launcher {launcher} did not start this'):
        prepare_training(street_config)


@pytest.mark.parametrize('kind', ['SyncBN', 'mmseg.SyncBN', 'MMSyncBN', nn.SyncBatchNorm])
def test_sync_bn_becomes_bn_however_it_is_written(kind):
    """Replace it in nested lists and mappings, too."""
    norm = dict(type=kind, requires_grad=True)
    model = dict(
        backbone=dict(type='RepVGG', norm_cfg=dict(norm)),
        heads=[dict(norm_cfg=dict(norm)), (dict(norm), dict(type='GN', num_groups=8))],
    )
    _replace_sync_bn(model)
    plain = dict(type='BN', requires_grad=True)
    assert model['backbone'] == dict(type='RepVGG', norm_cfg=plain)
    assert model['heads'] == [
        dict(norm_cfg=plain),
        (plain, dict(type='GN', num_groups=8)),
    ]
