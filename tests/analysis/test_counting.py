"""Counts agree with the paper's figures and with counting by hand."""

import json

import pytest
import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.config import Config
from mmseg.models.backbones import ResNet
from mmseg.registry import MODELS
from torch import nn

from mmseg_repvgg import RepVGG, deploy
from mmseg_repvgg.analysis.counting import (
    FORMATS,
    Classifier,
    Counts,
    count,
    count_network,
    show,
)
from mmseg_repvgg.engine.config import network_config
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.export.pooling import make_pooling_exact
from mmseg_repvgg.models.archs import ARCHS, plan
from mmseg_repvgg.winograd.conv import WinogradConv2d

# Parameters (M), MACs (B) and Winograd MULs (B) of the fused 1000-class classifier at
# 224x224: Table 4 of the paper. A and B0 with groups, B2g2 and B3 with any groups are not
# in it, and counted by hand.
PAPER = {
    'A0': (8.30, 1.4, 0.7),
    'A0g2': (7.05, 1.0, 0.6),
    'A0g4': (6.43, 0.9, 0.5),
    'A1': (12.78, 2.4, 1.3),
    'A1g2': (10.56, 1.8, 1.0),
    'A1g4': (9.44, 1.5, 0.9),
    'A2': (25.49, 5.1, 2.7),
    'A2g2': (20.48, 3.8, 2.1),
    'A2g4': (17.97, 3.2, 1.8),
    'B0': (14.33, 3.1, 1.6),
    'B0g2': (11.72, 2.3, 1.2),
    'B0g4': (10.41, 1.9, 1.1),
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


def assert_matches_paper(counts, params, macs, winograd):
    assert counts.params / 1e6 == pytest.approx(params, abs=0.02)
    assert counts.macs / 1e9 == pytest.approx(macs, abs=0.1)
    assert counts.winograd_muls / 1e9 == pytest.approx(winograd, abs=0.1)


@pytest.mark.parametrize('arch', PAPER)
def test_counts_match_the_paper(arch):
    rows = count_network(arch, network_config(arch), classifier=True)
    assert [(row.part, row.form) for row in rows] == [
        ('backbone', 'training'),
        ('backbone', 'fused'),
        ('classifier', 'training'),
        ('classifier', 'fused'),
    ]
    assert_matches_paper(rows[-1].counts, *PAPER[arch])


def test_resnet_50_matches_the_paper():
    # Stride 2 in the 1x1 convs, and norms folded into convs: else it has 0.03 M more
    # parameters.
    with torch.device('meta'):
        resnet = ResNet(50, style='caffe', strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1))
        model = Classifier(resnet, 2048)
        resnet.eval()
        folded = fuse_conv_bn(model)
    assert_matches_paper(count(folded, (1, 3, 224, 224)), 25.53, 3.9, 2.8)


def by_hand(arch, dilation, fused, height, width):
    """Sum up the layers of the plan, of an architecture without SE."""
    params = macs = winograd = activations = 0
    for layer in (layer for stage in plan(ARCHS[arch], dilation) for layer in stage):
        height, width = -(-height // layer.stride), -(-width // layer.stride)
        map_size = layer.out_channels * height * width
        taps = layer.in_channels // layer.groups
        macs += 9 * taps * map_size
        winograd += (4 if layer.stride == 1 else 9) * taps * map_size
        activations += map_size
        params += 9 * taps * layer.out_channels
        if fused:
            params += layer.out_channels
        else:
            macs += taps * map_size
            winograd += taps * map_size
            activations += map_size
            params += taps * layer.out_channels
            params += 2 * layer.out_channels * (2 + layer.identity)
    return Counts(params, macs, winograd, activations)


@pytest.mark.parametrize('dilation', [None, 'fast', 'full'])
@pytest.mark.parametrize('arch', ['A0', 'A2g4', 'B1g2'])
def test_every_branch_is_counted(arch, dilation):
    cfg = network_config(arch if dilation is None else f'{arch}-{dilation}')
    training, fused = count_network(arch, cfg, (61, 97))
    assert training.counts == by_hand(arch, dilation, False, 61, 97)
    assert fused.counts == by_hand(arch, dilation, True, 61, 97)


def test_only_products_are_counted():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=2, dilation=2),  # 27 a value, Winograd
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, stride=2, padding=1, groups=2),  # 36 a value at a quarter
        nn.Conv2d(4, 2, 1),
        nn.Upsample(scale_factor=2),
        nn.ConvTranspose2d(2, 5, 3, padding=1),  # 45 for each value it takes
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 10),
    )
    counts = count(net, (2, 3, 8, 6))
    values = (2 * 8 * 48, 2 * 4 * 12, 2 * 2 * 12, 2 * 5 * 48, 2 * 10)
    direct = 36 * values[1] + 4 * values[2] + 45 * (2 * 2 * 48) + 5 * values[4]
    assert counts.params == sum(p.numel() for p in net.parameters())
    assert counts.macs == 27 * values[0] + direct
    assert counts.winograd_muls == 12 * values[0] + direct
    assert counts.activations == sum(values)
    # It is left as it was.
    assert next(net.parameters()).device.type == 'cpu'
    assert net.training


def test_pooling_by_matrices_is_counted_as_products():
    pooling = make_pooling_exact(nn.Sequential(nn.AdaptiveAvgPool2d((3, 2))))
    counts = count(pooling, (2, 4, 10, 7))
    # 10x7 times 7x2, and 3x10 times that, for each of 8 maps.
    across, down = 8 * 10 * 7 * 2, 8 * 3 * 10 * 2
    assert counts == Counts(0, across + down, across + down, 8 * 10 * 2 + 8 * 3 * 2)


def test_winograd_convolution_is_counted_as_conv2d():
    conv = nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2)
    expected = count(nn.Sequential(conv), (1, 4, 11, 5))
    assert expected.macs == 8 * 55 * 18
    assert count(nn.Sequential(WinogradConv2d(conv)), (1, 4, 11, 5)) == expected


def test_segmentor_is_backbone_and_decode_head(repo):
    cfg = Config.fromfile(repo / 'configs' / 'pspnet_repvgg_a0_street.py')
    rows = count_network('street', cfg)
    backbone, _, segmentor, fused = (row.counts for row in rows)
    assert {row.size for row in rows} == {(128, 128)}
    # The auxiliary head, which is not run, is in neither. 1x1 convs of 4 poolings from
    # 1280 to 128, a 3x3 conv and one to 19 classes, on 16x16; no biases before norms.
    bins, wide, pixels = 1 + 4 + 9 + 36, 1280 + 4 * 128, 256
    head = Counts(
        params=4 * 1280 * 128 + wide * 128 * 9 + 5 * 2 * 128 + 128 * 19 + 19,
        macs=bins * 1280 * 128 + pixels * (wide * 128 * 9 + 128 * 19),
        winograd_muls=bins * 1280 * 128 + pixels * (wide * 128 * 4 + 128 * 19),
        activations=bins * 128 + pixels * (128 + 19),
    )
    for what, value in vars(head).items():
        assert getattr(segmentor, what) - getattr(backbone, what) == value
    assert fused.macs < segmentor.macs
    assert cfg.model.auxiliary_head is not None


def test_network_without_branches_is_counted_once(repo):
    fused = network_config('A0', {'model.backbone.deploy': True})
    (row,) = count_network('A0', fused, (64, 64))
    assert row.form == 'single'
    assert row.counts == by_hand('A0', None, True, 64, 64)
    rows = count_network(
        'R50', network_config(f'{repo}/configs/pspnet_r50_cityscapes.py')
    )
    assert [(row.part, row.form, row.size) for row in rows] == [
        ('backbone', 'single', (713, 713)),
        ('segmentor', 'single', (713, 713)),
    ]


def test_the_fused_form_is_that_of_deploy(randomize_norms):
    model = randomize_norms(RepVGG('A0', dilation='fast')).eval()
    counted = count(deploy(model), (1, 3, 32, 48))
    assert counted == count_network('A0', network_config('A0-fast'), (32, 48))[1].counts


def test_large_network_is_counted_without_computing():
    training, fused = count_network('B3', network_config('B3-full'), (1024, 2048))
    # Run in earnest, this would take minutes, and gigabytes.
    assert training.counts == by_hand('B3', 'full', False, 1024, 2048)
    assert fused.counts == by_hand('B3', 'full', True, 1024, 2048)


UNET = dict(
    type='EncoderDecoder',
    backbone=dict(type='UNet', base_channels=4, norm_cfg=dict(type='BN')),
    decode_head=dict(
        type='FCNHead', in_channels=4, in_index=4, channels=4, num_classes=3
    ),
    test_cfg=dict(mode='whole'),
)


def test_network_that_computes_while_built_is_counted():
    swin = dict(
        type='SwinTransformer', embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)
    )
    (row,) = count_network('swin', Config(dict(model=dict(backbone=swin))), (64, 64))
    with torch.device('meta'), pytest.raises(RuntimeError, match='[Mm]eta'):
        MODELS.build(swin)
    assert row.counts == count(MODELS.build(swin), (1, 3, 64, 64))


@pytest.mark.parametrize(
    ('model', 'size', 'says'),
    [
        (None, (0, 64), 'at least 1x1 pixels, but got 0x64'),
        (None, (64, -1), 'but got 64x-1'),
        (UNET, None, 'net.py has neither a sliding window nor a crop size.*--size H W'),
        (UNET, (65, 64), 'net.py cannot take an image of 65x64: .*divisible'),
    ],
)
def test_wrong_size_is_an_error(model, size, says):
    cfg = Config(dict(model=model)) if model else network_config('A0')
    with pytest.raises(ConfigError, match=says):
        count_network('net.py', cfg, size)


@pytest.mark.parametrize('folder', ['', 'configs/'])
def test_image_of_one_pixel_is_counted(folder, repo, monkeypatch):
    monkeypatch.chdir(repo)
    cfg = network_config(f'{folder}pspnet_repvgg_a0_street{".py" if folder else ""}')
    rows = count_network('street', cfg, (1, 1))
    assert rows[1].counts == by_hand('A0', 'full', True, 1, 1)


@pytest.mark.parametrize(
    ('given', 'options', 'says'),
    [
        ('B9', None, 'B9 is neither a config file.*D2se'),
        ('B2-slow', None, "dilation must be 'full', 'fast' or None, but got 'slow'"),
        ('gone.py', None, 'gone.py does not exist'),
        ('A0', {'model.backbone.arch': 'B9'}, "arch must be one of .*, but got 'B9'"),
    ],
)
def test_unknown_network_is_an_error(given, options, says):
    with pytest.raises(ConfigError, match=says):
        count_network(given, network_config(given, options))


def test_config_without_a_model_is_an_error(tmp_path):
    path = tmp_path / 'data_only.py'
    path.write_text('work_dir = "x"\n')
    with pytest.raises(ConfigError, match='data_only.py has no model'):
        network_config(str(path))


def test_formats_agree():
    rows = count_network('A0', network_config('A0'))
    lines = {form: show(rows, form).splitlines() for form in FORMATS}
    for form, line in dict(table=3, markdown=2).items():
        cells = [cell.strip() for cell in lines[form][line].strip('|').split('|')]
        assert cells[:4] == ['A0', 'backbone', 'training', '224x224']
        assert cells[4:] == ['7.83', '1.51', '0.90', '3.59']
    expected = by_hand('A0', None, True, 224, 224)
    assert json.loads(show(rows, 'json'))[1] == {
        'network': 'A0',
        'part': 'backbone',
        'form': 'fused',
        'height_pixels': 224,
        'width_pixels': 224,
        'params': expected.params,
        'macs_per_image': expected.macs,
        'winograd_muls_per_image': expected.winograd_muls,
        'activations_per_image': expected.activations,
    }


@pytest.mark.slow
def test_tool(run_tool, repo, tmp_path):
    config = repo / 'configs' / 'pspnet_repvgg_b3_cityscapes.py'
    options = '--size 1024 2048 --format json --cfg-options model.backbone.dilation=fast'
    result = run_tool('get_flops.py', config, 'B3-fast', *options.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    # Nothing but the JSON is on standard output.
    rows = json.loads(result.stdout)
    assert [row['part'] for row in rows] == ['backbone'] * 2 + ['segmentor'] * 2 + [
        'backbone'
    ] * 2
    counted = by_hand('B3', 'fast', True, 1024, 2048)
    for row in (rows[1], rows[5]):
        assert row['form'] == 'fused'
        assert row['macs_per_image'] == counted.macs
        assert row['activations_per_image'] == counted.activations
    assert not list(tmp_path.iterdir())

    result = run_tool('get_flops.py', 'B9', cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: B9 is neither a config')
