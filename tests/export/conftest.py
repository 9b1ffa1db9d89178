"""Fixtures of a segmentor that exports in seconds, its checkpoint and an int8 file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image

SIZE = (64, 128)


def make_small(cfg: Config) -> Config:
    """Keep one or two narrow layers of every kind that A0 has."""
    arch = dict(depths=(1, 2, 2, 1), a=0.25, b=0.25)
    cfg.model.backbone.update(arch=arch, dilation='full')
    cfg.model.decode_head.update(in_channels=128, channels=16)
    cfg.model.auxiliary_head.update(in_channels=64, channels=16)
    return cfg


@pytest.fixture
def cfg(street_config) -> Config:
    return make_small(street_config)


@pytest.fixture
def checkpoint(cfg, randomize_norms, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('checkpoint') / 'small.pth'
    torch.save(
        {'state_dict': randomize_norms(MODELS.build(cfg.model)).state_dict()}, path
    )
    return str(path)


@pytest.fixture
def model(cfg, checkpoint):
    from mmseg_repvgg.engine.load_model import load_model

    return load_model(cfg, checkpoint)


@pytest.fixture(scope='session')
def int8(street_root, small_street_config, tmp_path_factory):
    """Config, model and the result of quantizing every layer of it."""
    from mmseg_repvgg.engine.load_model import load_model
    from mmseg_repvgg.export.quantized import quantize
    from mmseg_repvgg.export.verify import reference, smooth_noise

    folder = tmp_path_factory.mktemp('int8')
    torch.manual_seed(0)
    init_default_scope('mmseg')
    cfg = make_small(small_street_config(street_root, folder))
    # NNCF needs folded constants, and folding loses the names of grouped convs.
    cfg.model.backbone.arch.update(groups=2)
    model = MODELS.build(cfg.model).train()
    # Running statistics that fit the input, as after training.
    images, _ = reference(model, smooth_noise(4, *SIZE))
    with torch.no_grad():
        for _ in range(20):
            model.decode_head(model.extract_feat(images))
    torch.save({'state_dict': model.state_dict()}, folder / 'small.pth')
    model = load_model(cfg, str(folder / 'small.pth'))
    return cfg, model, quantize(cfg, model, folder / 'x.xml', size=SIZE, images=4)


@pytest.fixture
def read_image():
    """Read an image as the network sees it in validation."""

    def read(cfg: Config, file: Path) -> np.ndarray:
        image = np.asarray(Image.open(file)).transpose(2, 0, 1).astype(np.float32)
        preprocessor = cfg.model.data_preprocessor
        mean, std = (
            np.array(preprocessor[name], np.float32).reshape(3, 1, 1)
            for name in ('mean', 'std')
        )
        return ((image - mean) / std)[None]

    return read
