"""The architecture table, the dilation plan, and inferring an architecture."""

import pytest
import torch

from mmseg_repvgg import RepVGG
from mmseg_repvgg.models.archs import ARCHS, get_arch, infer_arch, plan


def test_families_a_and_b_have_every_number_of_groups():
    plain = [f'A{n}' for n in range(3)] + [f'B{n}' for n in range(4)]
    named = {name + g for name in plain for g in ('', 'g2', 'g4')}
    assert set(ARCHS) == named | {'D2se'}


@pytest.mark.parametrize('arch', ARCHS)
def test_every_second_layer_is_grouped(arch):
    layers = [layer for stage in plan(ARCHS[arch]) for layer in stage]
    assert len(layers) == {'A': 22, 'B': 28, 'D': 48}[arch[0]]
    _, _, groups = arch.partition('g')
    assert [layer.groups for layer in layers] == [
        int(groups or 1) if index in range(2, 28, 2) else 1
        for index in range(len(layers))
    ]


@pytest.mark.parametrize('arch', ARCHS)
def test_full_dilates_every_layer_of_the_last_two_stages(arch):
    *early, four, five = plan(ARCHS[arch], 'full')
    assert {(layer.stride, layer.dilation) for layer in four} == {(1, 2)}
    assert {(layer.stride, layer.dilation) for layer in five} == {(1, 4)}
    assert {layer.dilation for stage in early for layer in stage} == {1}
    assert [stage[0].stride for stage in early] == [2, 2, 2]


@pytest.mark.parametrize('arch', ARCHS)
def test_fast_dilates_only_the_last_five_layers(arch):
    layers = [layer for stage in plan(ARCHS[arch], 'fast') for layer in stage]
    assert [layer.dilation for layer in layers[-5:]] == [2, 2, 2, 2, 4]
    assert {layer.dilation for layer in layers[:-5]} == {1}
    strides = [layer.stride for layer in layers]
    assert strides.count(2) == 3
    assert strides[-ARCHS[arch].depths[2] - 1] == 1


@pytest.mark.parametrize('dilation', ['full', 'fast'])
@pytest.mark.parametrize('arch', ARCHS)
def test_dilation_changes_no_weight(arch, dilation):
    # A0's stem and second stage are both 48 wide: without the original stride there
    # would be an identity branch that no checkpoint has.
    plain, dilated = (
        [(x.in_channels, x.out_channels, x.groups, x.identity) for s in p for x in s]
        for p in (plan(ARCHS[arch]), plan(ARCHS[arch], dilation))
    )
    assert plain == dilated
    assert [stage[0].identity for stage in plan(ARCHS[arch], dilation)] == [False] * 5


def test_fast_counts_layers_from_the_end_whatever_stage_they_are_in():
    arch = get_arch(dict(depths=(1, 1, 2, 4), a=1, b=1))
    layers = [layer.dilation for stage in plan(arch, 'fast') for layer in stage]
    assert layers == [1, 1, 1, 1, 2, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ('arch', 'says'),
    [
        ('B9', r"one of A0, .*D2se.*, but got 'B9'"),
        (dict(depths=(1, 1, 1, 1), a=1), 'needs depths, a and b'),
        (dict(depths=(1, 1, 1, 1), a=1, b=1, widht=3), 'widht'),
        (dict(depths=(1, 1, 1), a=1, b=1), r'4 numbers of layers.*got \(1, 1, 1\)'),
        (dict(depths=(1, 0, 1, 1), a=1, b=1), 'at least 1'),
        (dict(depths=(1, 1, 1, 1), a=0.75, b=1, groups=5), 'divisible by groups=5'),
        (dict(depths=3, a=1, b=1), '4 numbers of layers.*got 3'),
        (dict(depths=(1, 1.5, 1, 1), a=1, b=1), r'4 numbers of layers.*1\.5'),
        (dict(depths=(1, 1, 1, 1), a='1', b=1), "a of an arch must be .*'1'"),
        (dict(depths=(1, 1, 1, 1), a=1, b=float('nan')), 'b of an arch must be .*nan'),
        (dict(depths=(1, 1, 1, 1), a=1, b=1, groups=0), 'groups of an arch .*got 0'),
        (
            dict(depths=(1, 1, 2, 1), a=1, b=1, channels=[[8], [8], [8], [8], [8]]),
            r'channels of an arch must be 5 lists with \(1, 1, 1, 2, 1\) positive',
        ),
        (dict(depths=(1, 1, 1, 1), a=1, b=1, channels=[8, 8, 8, 8, 0]), 'positive'),
        (
            dict(depths=(1,) * 4, a=1, b=1, groups=2, channels=[[8], [8], [8], [7], [8]]),
            'divisible by groups=2',
        ),
        (7, 'one of A0, .* or a dict of .*, but got 7'),
    ],
)
def test_bad_arch_is_named(arch, says):
    with pytest.raises(ValueError, match=says):
        get_arch(arch)


def test_layers_of_a_stage_may_differ_in_width():
    channels = [[8], [16], [16, 24], [24, 24], [40]]
    arch = get_arch(dict(depths=(1, 2, 2, 1), a=0.25, b=0.25, channels=channels))
    (stem,), (two,), three, four, (five,) = plan(arch, 'fast')
    assert [stem.out_channels, two.in_channels, two.out_channels] == [8, 8, 16]
    assert [layer.in_channels for layer in (*three, *four, five)] == [16, 16, 24, 24, 24]
    assert [layer.out_channels for layer in (*three, *four, five)] == [16, 24, 24, 24, 40]
    assert [layer.identity for layer in (*three, *four)] == [False, False, False, True]
    assert RepVGG(arch, deploy=True).out_channels == (16, 24, 24, 40)


def test_bad_dilation_lists_what_is_allowed():
    with pytest.raises(ValueError, match="'full', 'fast' or None, but got 'slow'"):
        plan(ARCHS['A0'], 'slow')


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
    assert_layers_are_inferred(get_arch(fields))


def test_arch_of_a_pruned_net_is_inferred():
    channels = [[7], [12], [10, 18], [22, 6, 14], [30]]
    fields = dict(depths=(1, 2, 3, 1), a=0.25, b=0.25, groups=2, channels=channels)
    assert_layers_are_inferred(get_arch(fields))


def assert_layers_are_inferred(arch):
    for deploy in (False, True):
        inferred = infer_arch(state_dict(arch, deploy=deploy))
        assert plan(inferred) == plan(arch)
        assert inferred.se == arch.se


def test_shapes_of_another_net_give_no_arch():
    assert infer_arch({}) is None
    backbone = state_dict('A0')
    key = 'stage_4.0.conv.branch_3x3.conv.weight'
    assert infer_arch({**backbone, key: torch.ones(127, 64, 3, 3)}) is None
    assert infer_arch({**backbone, key: torch.ones(2)}) is None
