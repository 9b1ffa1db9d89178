"""What tools/benchmark_winograd.py measures, on small networks."""

from dataclasses import replace

import pytest
import torch

from benchmarks import winograd_figures
from benchmarks.runtimes import FORMS, difference
from benchmarks.subjects import Setup, Source, Subject
from benchmarks.winograd_figures import (
    OUR_HEAD,
    STOCK,
    dilated,
    measure_errors,
    measure_growth,
    measure_speed,
)
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.winograd import WinogradConv2d

OPTIONS = {'model.decode_head.channels': 32, 'model.backbone.norm_cfg.type': 'BN'}
SETUP = Setup((1, 3, 64, 96), 1, 'cpu', False, '')


@pytest.fixture
def ours(repo):
    return Source('ours', str(repo / 'configs/pspnet_repvgg_a0_street.py'), OPTIONS)


@pytest.fixture
def peer(repo):
    return Source('peer', str(repo / 'configs/pspnet_r18_camvid.py'), OPTIONS)


@pytest.mark.slow
def test_speed_covers_all_forms(ours, peer):
    for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
        pytest.importorskip(package, reason="needs pip install -e '.[export]'")
    speed = measure_speed(ours, peer, SETUP, warmup=0, rounds=3)
    assert speed.size == (64, 96)
    assert set(speed.timings.seconds) == {
        'full channels-last',
        'full winograd',
        'fast winograd',
        'peer winograd',
        *(f'peer {form}' for form in STOCK + OUR_HEAD),
    }
    assert all(len(seconds) == 3 for seconds in speed.timings.seconds.values())
    assert speed.best_of_peer(*STOCK).removeprefix('peer ') in STOCK
    assert speed.over_peer(*STOCK).median > 0


@pytest.mark.parametrize(('rounds', 'size'), [(0, (64, 96)), (1, (0, 96))])
def test_no_rounds_or_pixels_is_an_error(ours, peer, rounds, size):
    with pytest.raises(ConfigError, match=f'but got {rounds} and {size[0]}x{size[1]}'):
        measure_speed(ours, peer, replace(SETUP, shape=(1, 3, *size)), rounds=rounds)


def test_dilation_of_the_config_is_replaced(ours):
    fast = dilated(ours, 'fast')
    assert Subject(fast, SETUP).cfg.model.backbone.dilation == 'fast'
    assert Subject(dilated(fast, 'full'), SETUP).cfg.model.backbone.dilation == 'full'


@pytest.mark.slow
@pytest.mark.parametrize('form', STOCK)
def test_peer_with_our_head_computes_the_same(peer, form, tmp_path, monkeypatch):
    pytest.importorskip('openvino', reason="needs pip install -e '.[export]'")
    by_winograd = []
    forward = WinogradConv2d.forward
    monkeypatch.setattr(
        WinogradConv2d,
        'forward',
        lambda conv, x: by_winograd.append(conv) or forward(conv, x),
    )
    subject = Subject(peer, replace(SETUP, folder=str(tmp_path)))
    expected = FORMS['fused'].make(subject)()
    body = FORMS[form].make(subject.backbone())
    joined = winograd_figures._joined(
        body, winograd_figures._head_by_winograd(subject, 'highest')
    )
    assert difference(joined(), expected) < 1e-5
    (conv,) = by_winograd
    assert conv.out_channels == OPTIONS['model.decode_head.channels']


@pytest.mark.slow
def test_errors_and_growth(ours):
    errors = measure_errors(ours, SETUP)
    assert 0 < errors.winograd < 1e-5
    assert 0 < errors.direct < 1e-5
    growth = measure_growth(ours, SETUP, ((64, 96), (128, 192)), rounds=2)
    assert list(growth.seconds) == [(64, 96), (128, 192)]
    first, second = growth.seconds.values()
    expected = torch.log(torch.tensor(second / first)) / torch.log(torch.tensor(4.0))
    assert growth.slope == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_tool_prints_all_figures(repo, tmp_path, run_tool):
    pytest.importorskip('openvino', reason="needs pip install -e '.[export]'")
    result = run_tool(
        'benchmark_winograd.py',
        repo / 'configs/pspnet_repvgg_a0_street.py',
        repo / 'configs/pspnet_r18_camvid.py',
        '--size',
        33,
        47,
        '--rounds',
        1,
        '--threads',
        1,
        '--backbone-only',
        '--precision',
        'high',
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    for said in (
        'against',
        'backbone, 1 threads, high',
        'full winograd over peer',
        'full winograd over full direct',
        'full over fast, winograd',
        'largest error against float64',
        'peak memory over an empty process, 33x47',
        'slope of log time',
    ):
        assert said in result.stdout
    assert not list(tmp_path.iterdir())
