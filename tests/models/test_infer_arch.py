"""The architecture of a backbone is inferred from the shapes of its tensors."""

import pytest
import torch

from mmseg_repvgg import RepVGG
from mmseg_repvgg.models.archs import ARCHS, get_arch
from mmseg_repvgg.models.infer_arch import infer_arch


def state_dict(arch, **kwargs):
    with torch.device('meta'):
        return RepVGG(arch, **kwargs).state_dict()


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('arch', ARCHS)
def test_named_arch_is_inferred_in_both_forms(arch, deploy):
    backbone = state_dict(arch, deploy=deploy)
    assert infer_arch(backbone) is ARCHS[arch]
    without_stage_4 = {k: v for k, v in backbone.items() if 'stage_4' not in k}
    assert infer_arch(without_stage_4) is ARCHS[arch]
    without_a_block = {k: v for k, v in backbone.items() if 'stage_3.1.' not in k}
    assert infer_arch(without_a_block) not in ARCHS.values()


def test_arch_without_a_name_is_inferred():
    fields = dict(depths=(1, 2, 3, 1), a=0.25, b=0.25, groups=2, se=True)
    backbone = state_dict(fields)
    assert infer_arch(backbone) == get_arch(fields)


def test_shapes_of_another_net_give_no_arch():
    assert infer_arch({}) is None
    backbone = state_dict('A0')
    key = 'stage_4.0.conv.branch_3x3.conv.weight'
    assert infer_arch({**backbone, key: torch.ones(127, 64, 3, 3)}) is None
    assert infer_arch({**backbone, key: torch.ones(2)}) is None
