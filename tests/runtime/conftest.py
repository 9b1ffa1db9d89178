"""Exported files of the small trained network."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.export.exported import export


@pytest.fixture(scope='session')
def exported(trained, tmp_path_factory):
    """Export the small network: ``exported('onnx', output='logits')`` is the file."""
    folder, made = tmp_path_factory.mktemp('exported'), {}

    def make(to: str, **options) -> Path:
        key = (to, *sorted(options.items()))
        if key not in made:
            init_default_scope('mmseg')
            cfg = Config.fromfile(trained[0])
            suffix = dict(onnx='.onnx', openvino='.xml', torchscript='.pt')[to]
            path = folder / f'{len(made)}{suffix}'
            options = {'dynamic': 'size' not in options, **options}
            export(cfg, load_model(cfg, trained[1]), path, to, **options)
            made[key] = path
        return made[key]

    return make
