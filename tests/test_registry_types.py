"""Look-ups of types in configs, however they are written."""

import pytest
import torch
from mmseg.datasets import CityscapesDataset

from mmseg_repvgg import RepVGG
from mmseg_repvgg.registry_types import is_a, type_name


@pytest.mark.parametrize(
    ('written', 'name', 'ours'),
    [
        ('RepVGG', 'RepVGG', True),
        ('mmseg.RepVGG', 'RepVGG', True),
        (RepVGG, 'RepVGG', True),
        # mmengine writes a class into a checkpoint like this.
        ('mmseg_repvgg.models.repvgg.RepVGG', 'RepVGG', True),
        ('mmpretrain.RepVGG', 'RepVGG', False),
        (type('RepVGG', (), {'__module__': 'mmpretrain.models'}), 'RepVGG', False),
        ('ResNet', 'ResNet', False),
        (CityscapesDataset, 'CityscapesDataset', False),
        (torch.nn.SyncBatchNorm, 'SyncBatchNorm', False),
        (None, '', False),
    ],
)
def test_types_are_recognised_however_they_are_written(written, name, ours):
    assert type_name(dict(type=written)) == name
    assert is_a(dict(type=written), 'Other', 'RepVGG') is ours
    if name != 'RepVGG' and written is not None:
        assert is_a(dict(type=written), name)


def test_a_config_without_a_type_names_nothing():
    assert type_name({}) == ''
    assert not is_a({}, 'RepVGG')
