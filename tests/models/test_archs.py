"""The architecture table and the dilation plan against the paper's figures."""

import pytest
from torch import nn

from mmseg_repvgg import RepVGG
from mmseg_repvgg.analysis.counting import count
from mmseg_repvgg.models.archs import ARCHS, get_arch, plan

# Parameters (M), MACs (B) and Winograd MULs (B) of the fused 1000-class classifier at
# 224x224: Table 4 of the paper; rows marked True were counted by hand by this project.
PAPER = {
    'A0': (8.30, 1.4, 0.7),
    'A1': (12.78, 2.4, 1.3),
    'A2': (25.49, 5.1, 2.7),
    'B0': (14.33, 3.1, 1.6),
    'B1': (51.82, 11.8, 5.9),
    'B1g2': (41.36, 8.8, 4.6),
    'B1g4': (36.12, 7.3, 3.9),
    'B2': (80.31, 18.4, 9.1),
    'B2g2': (63.96, 13.7, 7.1),
    'B2g4': (55.77, 11.3, 6.0),
    'B3': (110.96, 26.2, 12.9),
    'B3g2': (87.40, 19.5, 9.9),
    'B3g4': (75.63, 16.1, 8.4),
}


class Classifier(nn.Module):
    def __init__(self, arch):
        super().__init__()
        self.backbone = RepVGG(arch, dilation=None, out_indices=(3,), deploy=True)
        self.linear = nn.Linear(self.backbone.out_channels[0], 1000)

    def forward(self, x):
        return self.linear(self.backbone(x)[0].mean((2, 3)))


@pytest.mark.parametrize('arch', PAPER)
def test_counts_are_those_of_the_paper(arch):
    counts = count(Classifier(arch), (1, 3, 224, 224))
    params, macs, winograd = PAPER[arch]
    assert counts.params / 1e6 == pytest.approx(params, abs=0.02)
    assert counts.macs / 1e9 == pytest.approx(macs, abs=0.1)
    assert counts.winograd_muls / 1e9 == pytest.approx(winograd, abs=0.1)


@pytest.mark.parametrize('arch', [a for a in ARCHS if a[0] == 'B'])
def test_b_has_28_layers_of_which_every_second_is_grouped(arch):
    layers = [layer for stage in plan(ARCHS[arch]) for layer in stage]
    assert len(layers) == 28
    grouped = [i for i, layer in enumerate(layers) if layer.groups > 1]
    assert grouped == ([] if ARCHS[arch].groups == 1 else list(range(2, 28, 2)))


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
        (7, 'name or a dict, but got 7'),
    ],
)
def test_bad_arch_is_named(arch, says):
    with pytest.raises(ValueError, match=says):
        get_arch(arch)


def test_bad_dilation_lists_what_is_allowed():
    with pytest.raises(ValueError, match="'full', 'fast' or None, but got 'slow'"):
        plan(ARCHS['A0'], 'slow')
