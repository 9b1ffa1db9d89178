"""Code of the README and the documentation runs as a reader would type it."""

import re
import shutil
import sys
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmseg.registry import MODELS

from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.export.exported import export

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[1]
# mmseg's own tools and configs.
MIM = Path(mmseg.__file__).parent / '.mim'

SMALL = """
_base_ = './your_config.py'
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(
        arch=dict(_delete_=True, depths=(1, 2, 2, 1), a=0.25, b=0.25), init_cfg=None
    ),
    decode_head=dict(in_channels=128, channels=16),
    auxiliary_head=dict(in_channels=64, channels=16),
)
"""


def blocks(page):
    """Return the blocks of Python code of a page."""
    return re.findall(r'^```python\n(.*?)^```', (REPO / page).read_text(), re.S | re.M)


@pytest.fixture
def config(tmp_path):
    """The README's config in a copy of mmseg's, and a small one that builds on it."""
    for part in ('_base_', 'pspnet'):
        shutil.copytree(MIM / 'configs' / part, tmp_path / part)
    (text,) = (each for each in blocks('README.md') if '# your_config.py' in each)
    (tmp_path / 'pspnet' / 'your_config.py').write_text(text)
    (tmp_path / 'pspnet' / 'small.py').write_text(SMALL)
    return tmp_path / 'pspnet' / 'your_config.py'


def test_widths_in_the_config_of_the_readme_fit(config):
    with torch.device('meta'):
        model = revert_sync_batchnorm(MODELS.build(Config.fromfile(config).model))
        maps = model.backbone(torch.empty(1, 3, 64, 64))
    for head in (model.decode_head, model.auxiliary_head):
        assert head.in_channels == maps[head.in_index].shape[1]


def test_config_of_the_readme_is_trained_and_tested_by_the_tools_of_mmseg(
    config, street_root, tmp_path, start
):
    options = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    for split in ('train', 'val', 'test'):
        options += [
            f'{split}_dataloader.dataset.data_root={street_root}',
            f'{split}_dataloader.num_workers=0',
            f'{split}_dataloader.persistent_workers=False',
        ]
    data = Config.fromfile(config)
    steps = {
        split: [step.type for step in data[f'{split}_dataloader'].dataset.pipeline]
        for split in ('train', 'val', 'test')
    }
    crop = steps['train'].index('RandomCrop')
    options.append(f'train_dataloader.dataset.pipeline.{crop}.crop_size=(64,64)')
    for split in ('val', 'test'):
        resize = steps[split].index('Resize')
        options.append(f'{split}_dataloader.dataset.pipeline.{resize}.scale=(128,64)')
    rest = ['--work-dir', 'work', '--cfg-options', *options]
    train = [sys.executable, MIM / 'tools' / 'train.py', 'pspnet/small.py']
    said = start(*train, *rest, cwd=tmp_path).succeed()
    assert 'evaluating the fused model' in said
    assert 'mIoU' in said
    test = [sys.executable, MIM / 'tools' / 'test.py', 'pspnet/small.py']
    said = start(*test, tmp_path / 'work' / 'iter_2.pth', *rest, cwd=tmp_path).succeed()
    assert 'evaluating the fused model' in said
    assert 'mIoU' in said


@pytest.fixture(scope='module')
def files(trained, street_images, tmp_path_factory):
    """A folder with the files that the code names."""
    folder = tmp_path_factory.mktemp('typed')
    shutil.copy(trained[0], folder / 'your_config.py')
    work_dir = folder / 'work_dirs' / 'your_config'
    work_dir.mkdir(parents=True)
    shutil.copy(trained[1], work_dir / 'iter_40000.pth')
    shutil.copy(street_images[0], folder / 'street.jpg')
    pytest.importorskip('onnxscript')
    cfg = Config.fromfile(trained[0])
    for name in ('street.onnx', 'model.onnx'):
        model = load_model(cfg.copy(), trained[1])
        export(cfg, model, folder / name, 'onnx', dynamic=True)
    return folder


@pytest.mark.parametrize(
    ('page', 'part', 'then', 'says'),
    [
        ('README.md', "segmenter('street.jpg')", 'labels.shape', '(64, 128)'),
        ('docs/inference.md', "Segmenter('street.onnx')", 'labels.shape', '(64, 128)'),
        ('docs/web.md', 'time_forms(segmenter.forms()', 'form.agreement > 0.99', 'True'),
        ('docs/export.md', "Session('model.onnx')", 'output.shape', '(64, 64, 64)'),
    ],
)
def test_code_runs(files, start, page, part, then, says):
    (code,) = (each for each in blocks(page) if part in each)
    command = [sys.executable, '-c', f'{code}\nprint({then})']
    said = start(*command, cwd=files, PYTHONPATH=str(REPO)).succeed()
    assert says in said.splitlines()
