"""Dilated blocks for ncnn, with the phases of a map side by side."""

import pytest
import torch

from benchmarks.ncnn_phases import (
    SideBySideSequential,
    gather_phases,
    place_phases,
    place_side_by_side,
)
from benchmarks.runtimes import FORMS, difference
from benchmarks.subjects import Setup, Source, Subject
from mmseg_repvgg import RepVGG, deploy
from mmseg_repvgg.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize('size', [(4, 6), (5, 7)])
def test_phases_have_zeros_between_them(size):
    x = torch.rand(1, 3, *size) + 1
    y = place_phases(x, 2)
    assert y.shape[2:] == (2 * (-(-size[0] // 2) + 1), 2 * (-(-size[1] // 2) + 1))
    rows, columns = y.shape[2] // 2, y.shape[3] // 2
    for row in range(2):
        for column in range(2):
            phase = y[:, :, row * rows :, column * columns :][:, :, :rows, :columns]
            expected = x[:, :, row::2, column::2]
            height, width = expected.shape[2:]
            assert torch.equal(phase[:, :, :height, :width], expected)
            assert not phase[:, :, height:].any()
            assert not phase[..., width:].any()
    assert torch.equal(gather_phases(y, 2)[:, :, : size[0], : size[1]], x)


def test_outputs_are_those_of_dilated_convs(randomize_norms):
    arch = dict(depths=(1, 1, 3, 2), a=0.25, b=0.25, groups=2)
    net = randomize_norms(RepVGG(arch, dilation='full')).eval().double()
    ours = place_side_by_side(deploy(net, 'phases'))
    assert sum(isinstance(m, SideBySideSequential) for m in ours.modules()) == 2
    for size in [(64, 96), (65, 47), (1, 1)]:
        x = torch.randn(1, 3, *size, dtype=torch.float64)
        expected = deploy(net)(x)[-1]
        assert (ours(x)[-1] - expected).abs().max() < 1e-12 * expected.abs().max()


def test_squeeze_and_excitation_is_refused():
    arch = dict(depths=(1, 1, 1, 1), a=0.25, b=0.25, se=True)
    ours = place_side_by_side(deploy(RepVGG(arch, dilation='full'), 'phases'))
    with pytest.raises(ConfigError, match='no squeeze-and-excitation'):
        ours(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize('size', [(64, 96), (65, 47)])
def test_ncnn_computes_the_same(tmp_path, randomize_norms, size):
    for package in ('ncnn', 'pnnx'):
        pytest.importorskip(package, reason="needs pip install -e '.[ncnn]'")
    setup = Setup((1, 3, *size), 1, 'cpu', True, str(tmp_path))
    subject = Subject(Source('net', 'A0-full'), setup)
    randomize_norms(subject.trained)
    expected = FORMS['fused'].make(subject)()
    for form in ('ncnn', 'ncnn-phases'):
        assert difference(FORMS[form].make(subject)(), expected) < 1e-5
    assert not list(tmp_path.iterdir())
    batch = Subject(subject.source, Setup((2, 3, *size), 1, 'cpu', True, str(tmp_path)))
    with pytest.raises(ConfigError, match='one image at once, but --batch is 2'):
        FORMS['ncnn'].make(batch)
