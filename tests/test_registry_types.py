"""What a config builds, however its type is written."""

import pytest
import torch
from mmseg.datasets import CityscapesDataset

from mmseg_repvgg import RepVGG
from mmseg_repvgg.registry_types import is_a, type_name


@pytest.mark.parametrize(
    ('kind', 'name', 'ours'),
    [
        ('RepVGG', 'RepVGG', True),
        ('mmseg.RepVGG', 'RepVGG', True),
        (RepVGG, 'RepVGG', True),
        # As mmengine writes a class into a checkpoint.
        ('mmseg_repvgg.models.repvgg.RepVGG', 'RepVGG', True),
        ('mmpretrain.RepVGG', 'RepVGG', False),
        (type('RepVGG', (), {'__module__': 'mmpretrain.models'}), 'RepVGG', False),
        ('ResNet', 'ResNet', False),
        (CityscapesDataset, 'CityscapesDataset', False),
        (torch.nn.SyncBatchNorm, 'SyncBatchNorm', False),
        (None, '', False),
    ],
)
def test_kinds(kind, name, ours):
    assert type_name(dict(type=kind)) == name
    assert is_a(dict(type=kind), 'Other', 'RepVGG') is ours
    assert kind in (None,) or ours or name == 'RepVGG' or is_a(dict(type=kind), name)


def test_nothing_is_named():
    assert type_name({}) == ''
    assert not is_a({}, 'RepVGG')
