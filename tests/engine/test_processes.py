"""Configs for several processes without a GPU."""

import pytest
from torch import nn

from mmseg_repvgg.engine.processes import _replace_sync_bn


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
