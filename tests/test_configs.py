"""Every config builds, has fitting widths and trains a step."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import PixelData
from mmseg.apis import MMSegInferencer, inference_model, init_model
from mmseg.datasets import CityscapesDataset
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_repvgg import deploy
from mmseg_repvgg.reparam.formulas import BLOCKS

CONFIGS = Path(__file__).parents[1] / 'configs'
ALL = sorted(path.stem for path in CONFIGS.glob('*.py'))
CITYSCAPES = [name for name in ALL if name.endswith('cityscapes')]
REPVGG = [name for name in CITYSCAPES if 'repvgg' in name]
SMALL = [name for name in ALL if name not in CITYSCAPES]
# The others have the layers of A0, only wider or more of them.
TRAINED = [
    *SMALL,
    'pspnet_repvgg_a0_cityscapes',
    'pspnet_repvgg_a0_fast_cityscapes',
    'pspnet_repvgg_b1g4_cityscapes',
    'pspnet_r50_cityscapes',
]


def load(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


def build(cfg):
    return revert_sync_batchnorm(MODELS.build(cfg.model))


def test_every_arch_has_configs_for_cityscapes():
    grouped = [f'b{n}{groups}' for n in (1, 2, 3) for groups in ('', 'g2', 'g4')]
    archs = ('a0', 'a1', 'a2', 'b0', *grouped)
    assert set(REPVGG) == {
        f'pspnet_repvgg_{arch}{fast}_cityscapes'
        for arch in archs
        for fast in ('', '_fast')
    }


@pytest.mark.parametrize('name', ALL)
def test_leaves_are_short(name):
    lines = (CONFIGS / f'{name}.py').read_text().splitlines()
    assert len(lines) <= 20
    assert lines[0].startswith('_base_')


@pytest.mark.parametrize('name', REPVGG)
def test_names_say_what_is_built(name):
    backbone = load(name).model.backbone
    arch = name.split('_')[2]
    assert backbone.arch.lower() == arch
    assert backbone.get('dilation', 'full') == ('fast' if '_fast' in name else 'full')


@pytest.mark.parametrize('name', ALL)
def test_widths_of_heads_fit_the_backbone(name):
    with torch.device('meta'):
        model = build(load(name)).eval()
        outputs = model.backbone(torch.empty(1, 3, 65, 65))
    for head in (model.decode_head, model.auxiliary_head):
        assert head.in_channels == outputs[head.in_index].shape[1]


@pytest.mark.parametrize('name', TRAINED)
def test_trains_a_step_at_a_small_crop(name):
    cfg = load(name)
    size, classes = (65, 65), cfg.model.decode_head.num_classes
    cfg.model.data_preprocessor.size = size
    model = build(cfg).train()
    labels = torch.randint(0, classes, (2, 1, *size))
    batch = model.data_preprocessor(
        {
            'inputs': [torch.randint(0, 255, (3, *size), dtype=torch.uint8)] * 2,
            'data_samples': [SegDataSample(gt_sem_seg=PixelData(data=x)) for x in labels],
        },
        True,
    )
    losses = model(**batch, mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert torch.isfinite(loss)
    for name_, parameter in model.named_parameters():
        assert parameter.grad is not None, name_
    assert {'decode.loss_ce', 'aux.loss_ce'} < set(losses)


@pytest.mark.parametrize('name', ['pspnet_repvgg_a0_cityscapes', *SMALL])
def test_fused_segmentor_equals_trained_segmentor(randomize_norms, name):
    model = randomize_norms(build(load(name))).eval()
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        trained, fused = model(x, mode='tensor'), deploy(model)(x, mode='tensor')
    assert float((trained - fused).abs().max() / trained.abs().max()) < 1e-5


@pytest.mark.parametrize('name', CITYSCAPES)
def test_cityscapes_configs_share_one_recipe(name):
    """Only the backbone and the widths of its outputs may differ."""
    reference, cfg = load('pspnet_repvgg_b2_cityscapes'), load(name)
    for one in (reference, cfg):
        one.model.pop('backbone')
        one.model.decode_head.pop('in_channels')
        one.model.auxiliary_head.pop('in_channels')
    assert cfg.to_dict() == reference.to_dict()


def test_camvid_configs_share_one_recipe():
    configs = [load(name) for name in SMALL if 'vgg' in name and 'camvid' in name]
    for cfg in configs:
        cfg.model.pop('backbone')
        cfg.model.decode_head.pop('in_channels')
        cfg.model.auxiliary_head.pop('in_channels')
    first, *others = [cfg.to_dict() for cfg in configs]
    assert len(others) == 1
    assert all(other == first for other in others)


def test_every_block_has_a_config_on_the_recipe_of_camvid():
    base = load('pspnet_repvgg_a0_fast_camvid').to_dict()
    backbone = base['model']['backbone']
    blocks = set()
    for path in CONFIGS.glob('blocks/*.py'):
        cfg = Config.fromfile(path).to_dict()
        blocks.add(cfg['model']['backbone'].pop('block'))
        residual = cfg['model']['backbone'].pop('residual', False)
        constructor = cfg['optim_wrapper'].pop('constructor', None)
        assert residual == ('residual' in path.name)
        assert (constructor is not None) == ('repoptimizer' in path.name)
        assert cfg['model']['backbone'] == backbone
        cfg['model'] = base['model']
        assert cfg == base
    assert blocks == {*BLOCKS} - {'repvgg'}


@pytest.fixture
def street_net(randomize_norms, tmp_path):
    """Return a config, a checkpoint like that of a training, and a picture."""
    name = 'pspnet_repvgg_a0_street'
    meta = dict(dataset_meta=dict(CityscapesDataset.METAINFO))
    state = randomize_norms(build(load(name))).state_dict()
    torch.save(dict(meta=meta, state_dict=state), tmp_path / 'fresh.pth')
    picture = np.random.default_rng(0).integers(0, 255, (50, 83, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / 'picture.jpg')
    return str(CONFIGS / f'{name}.py'), *(
        str(tmp_path / name) for name in ('fresh.pth', 'picture.jpg')
    )


@pytest.mark.parametrize('engine', ['torch', 'winograd'])
def test_inference_model_of_mmseg_runs_a_config(street_net, engine):
    config, checkpoint, picture = street_net
    model = init_model(config, checkpoint, device='cpu')
    expected = inference_model(model, picture).pred_sem_seg.data[0]
    assert expected.shape == (50, 83)
    assert len(expected.unique()) > 1
    fast = deploy(model, engine=engine)
    labels = inference_model(fast, picture).pred_sem_seg.data[0]
    assert (labels == expected).float().mean() > 0.999
    pixels = cv2.cvtColor(np.asarray(Image.open(picture)), cv2.COLOR_RGB2BGR)
    again = inference_model(fast, [pixels, pixels])[1].pred_sem_seg.data[0]
    assert torch.equal(again, labels)


def test_inferencer_of_mmseg_runs_a_config(street_net):
    config, checkpoint, picture = street_net
    inferencer = MMSegInferencer(model=config, weights=checkpoint, device='cpu')
    labels = inferencer(picture)['predictions']
    model = init_model(config, checkpoint, device='cpu')
    expected = inference_model(model, picture).pred_sem_seg.data[0]
    np.testing.assert_array_equal(labels, expected.numpy())
    assert labels.shape == (50, 83)
    # The fused model can replace it.
    inferencer.model = deploy(inferencer.model)
    assert (inferencer(picture)['predictions'] == labels).mean() > 0.999
