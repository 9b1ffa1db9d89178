"""Tests of the fused form on a device: architectures, precisions, engines, memory."""

import copy
from functools import partial

import pytest
import torch
from mmengine.runner import Runner

from benchmarks.benchmark import benchmark, build
from benchmarks.memory import run_on_gpu
from benchmarks.report import Protocol
from benchmarks.runtimes import FORMS
from benchmarks.subjects import Setup, Source
from mmseg_repvgg import RepVGG, deploy
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.models.archs import ARCHS
from mmseg_repvgg.models.comparison import compare_logits
from mmseg_repvgg.models.tf32 import tf32
from mmseg_repvgg.winograd import WinogradConv2d

# Tolerances relative to the largest output. On a CPU, with TF32 imitated by rounding the
# input of each conv, the worst architecture reached 1.2e-6, 1.8e-3, 1.9e-3 and 1.4e-2.
TOLERANCES = {
    ('float32', False): 1e-4,
    ('float32', True): 1e-2,
    ('float16', False): 1e-2,
    ('bfloat16', False): 1e-1,
}


@pytest.mark.parametrize(
    ('device', 'arch'),
    [
        ('cpu', 'A0'),
        *[pytest.param('cuda', arch, marks=pytest.mark.cuda) for arch in ARCHS],
    ],
)
def test_fused_output_matches_the_training_form_in_float64(device, arch, randomize_norms):
    torch.manual_seed(0)
    trained = randomize_norms(RepVGG(arch)).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = copy.deepcopy(trained).double()(x.double())[-1]
    fused = deploy(trained.to(device))
    errors = {}
    for name, allowed in TOLERANCES:
        dtype = getattr(torch, name)
        if device == 'cpu' and dtype == torch.float16:
            continue  # Some versions of torch lack it.
        with tf32(allowed), torch.no_grad():
            output = copy.deepcopy(fused).to(dtype)(x.to(device, dtype))[-1]
        difference = (output.cpu().double() - expected).abs().max()
        errors[name, allowed] = float(difference / expected.abs().max())
    # A comparison with NaN is false.
    assert all(error <= TOLERANCES[key] for key, error in errors.items()), errors


def test_hook_compares_without_tf32(device, street_config, randomize_norms):
    runner = Runner.from_cfg(street_config)
    trained = randomize_norms(runner.model).to(device).eval()
    fused = deploy(trained)
    batch = next(iter(runner.val_dataloader))
    used = []
    for model in (trained, fused):
        model.backbone.stem.register_forward_hook(lambda *_: used.append(tf32_allowed()))
    for allowed in (True, False):
        with tf32(allowed):
            difference = compare_logits(trained, fused, batch).logit_difference
            assert tf32_allowed() == (allowed, allowed)
        # TF32 alone would cause ten times this difference.
        assert difference < 1e-4
    assert used == [(False, False)] * 4


def tf32_allowed() -> tuple[bool, bool]:
    """Return whether convolutions and matrix products may use TF32."""
    matmul = torch.backends.cuda.matmul
    if hasattr(torch.backends.cudnn, 'conv'):
        owners = (torch.backends.cudnn.conv, matmul)
        return tuple(owner.fp32_precision == 'tf32' for owner in owners)
    return torch.backends.cudnn.allow_tf32, matmul.allow_tf32


@pytest.mark.cuda
def test_engines_use_cudnn_or_raise_on_a_gpu():
    model = RepVGG('A0').cuda()
    for engine in ('torch', 'auto'):
        convs = deploy(model, engine).modules()
        assert not any(isinstance(conv, WinogradConv2d) for conv in convs)
    with pytest.raises(ConfigError, match="engine='winograd' computes on a CPU"):
        deploy(model, 'winograd')


@pytest.mark.cuda
def test_fused_form_takes_less_memory():
    setup = Setup((4, 3, 128, 128), 1, 'cuda', True, '')
    forms = ('training', 'fused')
    memory = {
        form: run_on_gpu(partial(build, Source('A0', 'A0'), form, setup))[2]
        for form in forms
    }
    # 7.0 million parameters of 4 bytes; the training form also has 1x1 branches.
    assert 28e6 < memory['fused'].model < memory['training'].model < 60e6
    assert 0 < memory['fused'].run <= memory['training'].run


def test_every_form_can_be_measured(device, street_config_file):
    forms = [
        name
        for name, form in FORMS.items()
        if form.on_gpu and (device == 'cuda' or (form.on_cpu and not form.slow))
    ]
    source = Source('net', str(street_config_file))
    report = benchmark(
        [source], forms, Protocol(2, (65, 65), 1, 3), threads=1, device=device
    )
    assert [variant.failure for variant in report.variants] == [None] * len(forms)
    assert list(report.timed) == [f'net:{form}' for form in forms]
    if device == 'cuda':
        assert all(variant.memory.run > 0 for variant in report.variants)
