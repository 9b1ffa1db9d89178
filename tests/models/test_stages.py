"""The stages of a backbone: residual pairs and the scales that blocks begin with."""

import pytest
import torch
from torch import nn

from mmseg_repvgg import RepVGG


def test_residual_pairs_have_the_shortcuts_of_resnet():
    """Table 7: B0 gets 2, 3 and 8 blocks in stages 2 to 4."""
    with torch.device('meta'):
        model = RepVGG('B0', 'full', block='plain', residual=True)
    assert [len(stage) for stage in model.stages[1:]] == [2, 3, 8, 1]
    for stage in model.stages[1:4]:
        kinds = [type(pair.shortcut) for pair in stage]
        assert kinds[1:] == [nn.Identity] * (len(stage) - 1)
        assert list(stage[0].shortcut.branches) == ['branch_1x1']
    assert not any('shortcut' in name for name, _ in model.stage_4.named_modules())


def test_scales_begin_by_depth():
    """As in the authors' code of RepOptimizers."""
    model = RepVGG(dict(depths=(1, 2, 3, 1), a=0.25, b=0.25), block='csla')
    scales = [block.conv.branch_3x3.scale.weight[0].item() for block in model.stage_3]
    assert scales == pytest.approx([1, 2**0.5, 1])
    assert model.stage_3[2].conv.branch_identity.weight[0] == 1
