"""The paper's recipe, checked on the built Runner instead of the config.

Section 4.3 of the paper and, where it is silent, the PSPNet reference; the sources of
each choice are in docs/recipe.md.
"""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_repvgg import deploy
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.training import prepare_training
from mmseg_repvgg.hooks.iteration_seed_hook import Position, seed_all

TRAIN_IMAGES = 2975
GPUS = 8


@pytest.fixture(scope='module')
def cityscapes(tmp_path_factory, street_root):
    """Create as many file names as Cityscapes has, all links to drawn images."""
    root = tmp_path_factory.mktemp('cityscapes')
    for split, count in (('train', TRAIN_IMAGES), ('val', 5)):
        image = next((street_root / 'leftImg8bit' / split).glob('*/*_leftImg8bit.png'))
        label = next((street_root / 'gtFine' / split).glob('*/*_labelTrainIds.png'))
        for kind in ('leftImg8bit', 'gtFine'):
            (root / kind / split / 'city').mkdir(parents=True)
        for number in range(count):
            name = f'city_{number:06d}_000019'
            folder = root / 'leftImg8bit' / split / 'city'
            (folder / f'{name}_leftImg8bit.png').symlink_to(image)
            folder = root / 'gtFine' / split / 'city'
            (folder / f'{name}_gtFine_labelTrainIds.png').symlink_to(label)
    return root


def load(repo, name):
    return load_config(repo / 'configs' / f'{name}.py')


@pytest.fixture(scope='module')
def runner(repo, cityscapes, tmp_path_factory):
    """Build the Runner of `tools/train.py configs/pspnet_repvgg_b2_cityscapes.py`."""
    init_default_scope('mmseg')
    cfg = load(repo, 'pspnet_repvgg_b2_cityscapes')
    cfg.work_dir = str(tmp_path_factory.mktemp('work'))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(cityscapes)
        loader.update(num_workers=0, persistent_workers=False)
    prepare_training(cfg, global_batch=16)
    runner = build_runner(cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    return runner


def test_forty_epochs_of_sixteen_images(runner, repo):
    loop = runner.train_loop
    assert len(loop.dataloader.dataset) == TRAIN_IMAGES
    assert loop.dataloader.batch_size == 16
    # Two images at a time, as on one of the paper's 8 GPUs.
    assert runner.optim_wrapper._accumulative_counts == GPUS
    assert loop.max_iters == math.ceil(TRAIN_IMAGES / 16) * 40 == 7440
    assert load(repo, 'pspnet_repvgg_b2_cityscapes').train_dataloader.batch_size == 2


def test_learning_rate_decays_polynomially(runner):
    (hook,) = [hook for hook in runner.hooks if 'ParamScheduler' in type(hook).__name__]
    (group,) = runner.optim_wrapper.param_groups
    runner.optim_wrapper.step()  # no gradient yet: it changes nothing
    rates = []
    for iteration in range(7440):
        rates.append(group['lr'])
        hook.after_train_iter(runner, batch_idx=iteration)
    for iteration in (0, 1, 3720, 7439):
        expected = 0.01 * (1 - iteration / 7440) ** 0.9
        assert rates[iteration] == pytest.approx(expected, rel=1e-9), iteration
    assert rates[0] == 0.01
    assert all(a > b > 0 for a, b in zip(rates, rates[1:]))


def test_optimizer_treats_every_parameter_alike(runner):
    optimizer = runner.optim_wrapper.optimizer
    assert type(optimizer) is torch.optim.SGD
    for group in optimizer.param_groups:
        assert group['weight_decay'] == 1e-4
        assert group['momentum'] == 0.9
        assert group['dampening'] == 0
        assert not group['nesterov']
    held = [id(p) for group in optimizer.param_groups for p in group['params']]
    assert sorted(held) == sorted(id(p) for p in runner.model.parameters())


def test_training_samples_are_scaled_crops(runner):
    dataset = runner.train_loop.dataloader.dataset
    for place in range(3):
        position = Position(place)
        position.seed = (0, place)
        sample = dataset[position]
        assert sample['inputs'].shape == (3, 713, 713)
        assert sample['inputs'].dtype == torch.uint8
        assert sample['data_samples'].gt_sem_seg.data.shape == (1, 713, 713)
    (resize,) = [
        step
        for step in dataset.pipeline.transforms
        if type(step).__name__ == 'RandomResize'
    ]
    widths = []
    for seed in range(40):
        seed_all(seed)
        image = np.zeros((16, 32, 3), np.uint8)
        widths.append(resize({'img': image, 'img_shape': (16, 32)})['img'].shape[1])
    assert 1024 <= min(widths) < 1300
    assert 3800 < max(widths) <= 4096


def test_augmentation_is_exactly_the_reference(runner):
    steps = runner.train_loop.dataloader.dataset.pipeline.transforms
    assert [type(step).__name__ for step in steps] == [
        'SeedSample',
        'LoadCheckedImage',
        'LoadCheckedAnnotations',
        'RandomResize',
        'RandomRotate',
        'RandomGaussianBlur',
        'RandomFlip',
        'RandomCrop',
        'PackSegInputs',
    ]
    resize, rotate, blur, flip, crop = steps[3:8]
    assert (resize.scale, resize.ratio_range) == ((2048, 1024), (0.5, 2.0))
    assert resize.resize.keep_ratio
    assert (rotate.degree, rotate.prob) == ((-10.0, 10.0), 0.5)
    # Corners get the mean colour, in BGR as images are read, and no label.
    assert rotate.pal_val == (103.53, 116.28, 123.675)
    assert (rotate.seg_pad_val, rotate.center, rotate.auto_bound) == (255, None, False)
    assert (blur.prob, blur.kernel_size) == (0.5, 5)
    assert (flip.prob, flip.direction) == (0.5, 'horizontal')
    assert (crop.crop_size, crop.cat_max_ratio) == ((713, 713), 1.0)
    # What is smaller than the crop likewise: 0 is the mean once it is normalised.
    preprocessor = runner.model.data_preprocessor
    assert preprocessor.size == (713, 713)
    assert (preprocessor.pad_val, preprocessor.seg_pad_val) == (0, 255)


def test_images_are_normalised_with_imagenet_statistics(runner):
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    bgr = torch.tensor(mean[::-1]).round().to(torch.uint8)
    image = bgr.view(3, 1, 1).expand(3, 713, 713).contiguous()
    out = runner.model.data_preprocessor({'inputs': [image], 'data_samples': None})
    expected = (bgr.flip(0).float() - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(out['inputs'][0, :, 5, 5], expected)


def test_losses_are_weighted_and_averaged_over_labelled_pixels(runner):
    """The auxiliary loss has weight 0.4 and is on stage 4."""
    model, seen = runner.model, {}

    def note(module, name):
        return module.register_forward_hook(
            lambda module, args, output: seen.update({name: (args[0], output)})
        )

    hooks = [
        note(model.backbone, 'backbone'),
        note(model.auxiliary_head.convs, 'auxiliary convs'),
        note(model.decode_head.conv_seg, 'decode'),
        note(model.auxiliary_head.conv_seg, 'auxiliary'),
    ]
    labels = torch.randint(0, 19, (2, 1, 65, 65))
    labels[0, 0, :30] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    model.train()
    with torch.no_grad():
        losses = model.loss(torch.randn(2, 3, 65, 65), samples)
    for hook in hooks:
        hook.remove()

    def cross_entropy(name):
        logits = seen[name][1]
        logits = F.interpolate(logits, (65, 65), mode='bilinear', align_corners=True)
        return F.cross_entropy(logits, labels[:, 0], ignore_index=255)

    torch.testing.assert_close(losses['decode.loss_ce'], cross_entropy('decode'))
    torch.testing.assert_close(losses['aux.loss_ce'], 0.4 * cross_entropy('auxiliary'))
    stages = seen['backbone'][1]
    assert [stage.shape[1] for stage in stages] == [160, 320, 640, 2560]
    assert seen['auxiliary convs'][0] is stages[2]
    dropouts = [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)]
    assert dropouts == [0.1, 0.1]
    pools = [
        m.output_size for m in model.modules() if isinstance(m, nn.AdaptiveAvgPool2d)
    ]
    assert pools == [1, 2, 3, 6]


FULL = (
    [(2, 1)]
    + [(2, 1)] + [(1, 1)] * 3
    + [(2, 1)] + [(1, 1)] * 5
    + [(1, 2)] * 16
    + [(1, 4)]
)  # fmt: skip
FAST = (
    [(2, 1)]
    + [(2, 1)] + [(1, 1)] * 3
    + [(2, 1)] + [(1, 1)] * 5
    + [(1, 1)] * 12 + [(1, 2)] * 4
    + [(1, 4)]
)  # fmt: skip


def note_order(ran, module, args, output):
    ran.append(module)


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('pspnet_repvgg_b2_cityscapes', FULL),
        ('pspnet_repvgg_b2_fast_cityscapes', FAST),
        ('pspnet_repvgg_b1g2_cityscapes', FULL),
        ('pspnet_repvgg_b1g2_fast_cityscapes', FAST),
    ],
)
def test_stride_and_dilation_of_all_28_layers(repo, name, expected):
    """Compare in the order of execution, in both forms."""
    model = revert_sync_batchnorm(MODELS.build(load(repo, name).model)).eval()
    for backbone in (model.backbone, deploy(model).backbone):
        ran, hooks = [], []
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                hooks.append(module.register_forward_hook(partial(note_order, ran)))
        with torch.no_grad():
            stages = backbone(torch.randn(1, 3, 65, 65))
        for hook in hooks:
            hook.remove()
        assert [(m.stride[0], m.dilation[0]) for m in ran] == expected
        assert all(m.padding == m.dilation and m.stride[0] == m.stride[1] for m in ran)
        assert [stage.shape[-1] for stage in stages] == [17, 9, 9, 9]


@pytest.mark.parametrize(
    'name', ['pspnet_repvgg_b2_cityscapes', 'pspnet_r101_cityscapes']
)
def test_statistics_are_shared_by_all_gpus(repo, name):
    """A Runner on one device would replace SyncBN, so check the model itself."""
    model = MODELS.build(load(repo, name).model).train()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 60
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert all(norm.training and norm.momentum == 0.1 for norm in norms)


def test_sliding_windows_cover_the_image(repo):
    """Windows of 713 start every 476 pixels; the last are moved back into the image."""
    model = revert_sync_batchnorm(
        MODELS.build(load(repo, 'pspnet_repvgg_a0_cityscapes').model)
    )
    model, corners = deploy(model), []

    def note(module, args):
        for window in args[0]:
            assert window.shape == (3, 713, 713)
            corners.append((int(window[0, 0, 0]), int(window[1, 0, 0])))

    model.backbone.register_forward_pre_hook(note)
    rows, columns = torch.meshgrid(torch.arange(1024), torch.arange(2048), indexing='ij')
    image = torch.stack([rows, columns, columns]).float()[None]
    meta = dict(ori_shape=(1024, 2048), img_shape=(1024, 2048), pad_shape=(1024, 2048))
    with torch.no_grad():
        logits = model.inference(image, [meta])
    assert logits.shape == (1, 19, 1024, 2048)
    expected = [(y, x) for y in (0, 311) for x in (0, 476, 952, 1335)]
    assert sorted(corners) == sorted(expected)
