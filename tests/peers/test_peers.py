"""Checkpoints of the real classes of timm and mmpretrain are read and written.

Run by `make test-peers`, in an environment of its own.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import recording
import torch
from torch import Tensor, nn

from mmseg_repvgg import RepVGG, deploy
from mmseg_repvgg.checkpoints.files import read_checkpoint
from mmseg_repvgg.checkpoints.key_names import to_native
from mmseg_repvgg.checkpoints.state_dict import extract_state_dict
from mmseg_repvgg.models.archs import ARCHS, infer_arch
from mmseg_repvgg.models.convert import convert

REASON = 'needs the real classes: make test-peers'
timm = pytest.importorskip('timm', reason=REASON)
mmpretrain = pytest.importorskip('mmpretrain', reason=REASON)

from mmpretrain.models.backbones import RepVGG as MmpretrainRepVGG  # noqa: E402
from mmpretrain.registry import MODELS  # noqa: E402
from timm.utils.model import reparameterize_model  # noqa: E402

TOLERANCE = 1e-5
TIMM_ARCHS = [name for name in ARCHS if f'repvgg_{name.lower()}' in timm.list_models()]
MMPRETRAIN_ARCHS = [name for name in ARCHS if name in MmpretrainRepVGG.arch_settings]


@dataclass
class Peer:
    """Another project.

    Attributes:
        build: Build the net of an arch, with its classifier.
        fuse: Turn a net into its fused form.
        stages: Compute the outputs of the four stages.
    """

    build: Callable[[str], nn.Module]
    fuse: Callable[[nn.Module], nn.Module]
    stages: Callable[[nn.Module, Tensor], list[Tensor]]


def _timm_stages(net: nn.Module, image: Tensor) -> list[Tensor]:
    outputs = []
    x = net.stem(image)
    for stage in net.stages:
        x = stage(x)
        outputs.append(x)
    return outputs


def _mmpretrain_build(arch: str) -> nn.Module:
    channels = ARCHS[arch].widths[-1]
    return MODELS.build(
        dict(
            _scope_='mmpretrain',
            type='ImageClassifier',
            backbone=dict(type='RepVGG', arch=arch, out_indices=(0, 1, 2, 3)),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=channels),
        )
    )


def _mmpretrain_fuse(net: nn.Module) -> nn.Module:
    net.backbone.switch_to_deploy()
    return net


PEERS = {
    'timm': Peer(
        build=lambda arch: timm.create_model(f'repvgg_{arch.lower()}'),
        fuse=lambda net: reparameterize_model(net, inplace=True),
        stages=_timm_stages,
    ),
    'mmpretrain': Peer(
        build=_mmpretrain_build,
        fuse=_mmpretrain_fuse,
        stages=lambda net, image: list(net.backbone(image)),
    ),
}
CASES = [('timm', a) for a in TIMM_ARCHS] + [('mmpretrain', a) for a in MMPRETRAIN_ARCHS]


@pytest.fixture(name='folder')
def _folder(tmp_path):
    """Return a folder that is removed after the test: all files together take 60 GB."""
    yield tmp_path
    shutil.rmtree(tmp_path)
    gc.collect()


def build(layout: str, arch: str) -> nn.Module:
    """Build a real net with weights as after training."""
    with torch.device('meta'):
        net = PEERS[layout].build(arch)
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    net = net.to_empty(device='cpu')
    net.load_state_dict(recording.fill(shapes), strict=True)
    return net.eval()


@torch.no_grad()
def outputs_of(layout: str, net: nn.Module) -> list[Tensor]:
    return PEERS[layout].stages(net.double(), recording.image())


@torch.no_grad()
def our_outputs(model: nn.Module) -> list[Tensor]:
    return list(model.double().eval()(recording.image()))


def our_net(arch: str, backbone: dict[str, Tensor], fused: bool = False) -> nn.Module:
    with torch.device('meta'):
        model = RepVGG(arch, dilation=None, deploy=fused)
    model.load_state_dict(backbone, strict=True, assign=True)
    return model


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    assert [o.shape for o in ours] == [t.shape for t in theirs]
    assert len(ours) == 4
    return max(float((o - t).abs().max() / t.abs().max()) for o, t in zip(ours, theirs))


def read(path) -> dict[str, Tensor]:
    return extract_state_dict(read_checkpoint(path))


@pytest.mark.parametrize(('layout', 'arch'), CASES)
def test_their_weights_compute_the_same_here(layout, arch, folder, record_property):
    file = folder / 'theirs.pth'
    net = build(layout, arch)
    torch.save(net.state_dict(), file)
    theirs = outputs_of(layout, net)
    del net

    native = to_native(read(file))
    assert native.recognised.layout == layout
    assert native.recognised.form == 'training'
    assert len(native.classifier) == 2
    assert not native.rest
    assert infer_arch(native.backbone) is ARCHS[arch]
    model = our_net(arch, native.backbone)
    fused = deploy(model)
    differences = {
        'training': largest_difference(our_outputs(model), theirs),
        'fused here': largest_difference(our_outputs(fused), theirs),
    }
    record_property('differences', differences)
    assert max(differences.values()) < TOLERANCE


@pytest.mark.parametrize(('layout', 'arch'), CASES)
def test_their_fused_weights_compute_the_same_here(layout, arch, folder, record_property):
    file = folder / 'theirs.pth'
    net = build(layout, arch)
    # mmpretrain's fused form leaves squeeze-and-excitation out, though its weights are in
    # the file. They must compute what the training form computes.
    forgets_se = layout == 'mmpretrain' and ARCHS[arch].se
    if forgets_se:
        theirs = outputs_of(layout, net)
        net.float()
    net = PEERS[layout].fuse(net)
    torch.save(net.state_dict(), file)
    fused = outputs_of(layout, net)
    del net

    native = to_native(read(file))
    assert (native.recognised.layout, native.recognised.form) == (layout, 'fused')
    assert infer_arch(native.backbone) is ARCHS[arch]
    ours = our_outputs(our_net(arch, native.backbone, fused=True))
    if forgets_se:
        assert largest_difference(ours, fused) > 0.1, 'mmpretrain has fixed its SE'
        fused = theirs
    difference = largest_difference(ours, fused)
    record_property('difference', difference)
    assert difference < TOLERANCE


@pytest.mark.parametrize('form', ['training', 'fused'])
@pytest.mark.parametrize(('layout', 'arch'), CASES)
def test_written_file_loads_strictly_and_equals_the_original(layout, arch, form, folder):
    theirs, ours, back = (folder / f'{name}.pth' for name in ('theirs', 'ours', 'back'))
    net = build(layout, arch)
    if form == 'fused':
        net = PEERS[layout].fuse(net)
    torch.save(net.state_dict(), theirs)
    # The conversion goes through the author's layout, which keeps the classifier.
    convert(theirs, ours, to='official')
    conversion = convert(ours, back, to=layout)
    ours.unlink()
    assert conversion.arch == arch
    assert conversion.difference == 0

    before, state_dict = read(theirs), read(back)
    if form == 'training':
        assert list(state_dict) == list(before)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.fill_(3)
    net.load_state_dict(state_dict, strict=True)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize('layout', PEERS)
def test_their_file_loads_by_init_cfg(layout, folder):
    file = folder / 'theirs.pth'
    net = build(layout, 'A0')
    torch.save({'state_dict': net.state_dict(), 'meta': {}}, file)
    model = RepVGG('A0', None, init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    model.init_weights()
    theirs = outputs_of(layout, net)
    assert largest_difference(our_outputs(model), theirs) < TOLERANCE


@pytest.mark.parametrize('arch', ['A0', 'D2se'])
def test_features_only_layout_is_read(arch, folder):
    net = timm.create_model(
        f'repvgg_{arch.lower()}', features_only=True, out_indices=(1, 2, 3, 4)
    ).eval()
    state_dict = recording.fill({k: v.shape for k, v in net.state_dict().items()})
    net.load_state_dict(state_dict, strict=True)
    torch.save(net.state_dict(), folder / 'features.pth')
    with torch.no_grad():
        theirs = net.double()(recording.image())
    native = to_native(read(folder / 'features.pth'))
    ours = our_outputs(our_net(arch, native.backbone))
    assert largest_difference(ours, theirs) < TOLERANCE


@pytest.mark.parametrize('arch', ['A0', 'B1g4', 'D2se'])
@pytest.mark.parametrize('layout', PEERS)
def test_recordings_match_the_real_classes(layout, arch, request):
    version = {'timm': timm, 'mmpretrain': mmpretrain}[layout].__version__
    net = build(layout, arch)
    recordings = {}
    for form in ('training', 'fused'):
        if form == 'fused':
            net = PEERS[layout].fuse(net.float())
        shapes = {key: list(value.shape) for key, value in net.state_dict().items()}
        net.load_state_dict(recording.fill(shapes), strict=True)
        recordings[form] = {
            'source': f'{layout} {version}',
            'keys': shapes,
            'outputs': [recording.summary(o) for o in outputs_of(layout, net)],
        }
    if ARCHS[arch].se and layout == 'mmpretrain':
        # Its fused form leaves squeeze-and-excitation out.
        recordings['fused']['outputs'] = None
    for form, recorded in recordings.items():
        name = f'{layout}_{arch}_{form}'
        if request.config.getoption('--record'):
            recording.write(name, recorded)
        assert recording.read(name)['keys'] == recorded['keys']
