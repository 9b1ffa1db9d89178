import copy
import re

import pytest

from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.testing import prepare_testing
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.export.backend_segmentor import use_exported_file
from mmseg_repvgg.export.exported import export

onnx, *_ = (
    pytest.importorskip(package, reason="needs pip install -e '.[export]'")
    for package in ('onnx', 'openvino', 'onnxruntime', 'onnxscript')
)


@pytest.fixture
def exported(cfg, checkpoint, tmp_path):
    def exported(name, to, **options):
        model = load_model(copy.deepcopy(cfg), checkpoint)
        return str(export(cfg, model, tmp_path / name, to, **options).path)

    return exported


def metrics_of_file(cfg, file):
    cfg = copy.deepcopy(cfg)
    cfg.launcher = 'none'
    use_exported_file(cfg, file)
    return build_runner(cfg).test()


def metrics_of_checkpoint(cfg, checkpoint):
    cfg = copy.deepcopy(cfg)
    cfg.launcher = 'none'
    prepare_testing(cfg, checkpoint)
    return build_runner(cfg).test()


# Percent. On another processor, a pixel of two best logits may get the other label.
A_FEW_PIXELS = 0.1


def resize_images(cfg, size):
    """Test at another size than that of the label maps, (W, H), as CamVid is."""
    for loader in (cfg.test_dataloader, cfg.val_dataloader):
        loader.dataset.pipeline.insert(1, dict(type='Resize', scale=size))


@pytest.mark.slow
def test_metrics_match_the_checkpoint(cfg, checkpoint, exported):
    expected = metrics_of_checkpoint(cfg, checkpoint)
    assert expected['mIoU'] > 0
    for file in (
        exported('x.onnx', 'onnx', size=(64, 128), output='logits', normalize=True),
        exported('x.xml', 'openvino', size=(64, 128), output='logits'),
        exported('x.pt', 'torchscript', size=(64, 128), normalize=True),
    ):
        assert metrics_of_file(cfg, file) == pytest.approx(expected, abs=A_FEW_PIXELS)
    # Other weights must score otherwise, or the comparison proves nothing.
    other = load_model(copy.deepcopy(cfg), checkpoint)
    other.decode_head.conv_seg.weight.data.neg_()
    file = export(cfg, other, file, 'torchscript', size=(64, 128)).path
    assert metrics_of_file(cfg, str(file)) != pytest.approx(expected, abs=A_FEW_PIXELS)


def test_logits_are_resized_and_labels_are_refused(cfg, checkpoint, exported):
    resize_images(cfg, (97, 49))
    expected = metrics_of_checkpoint(cfg, checkpoint)
    file = exported('x.pt', 'torchscript', size=(49, 97), output='logits')
    assert metrics_of_file(cfg, file) == pytest.approx(expected, abs=A_FEW_PIXELS)
    file = exported('x.pt', 'torchscript', size=(49, 97))
    with pytest.raises(ConfigError, match=r'49x97.*64x128.*--output logits'):
        metrics_of_file(cfg, file)


def test_training_hooks_are_removed(cfg, checkpoint, exported):
    """EMAHook would copy the file's session."""
    expected = metrics_of_checkpoint(cfg, checkpoint)
    file = exported('x.onnx', 'onnx', size=(64, 128), output='logits')
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    assert metrics_of_file(cfg, file) == pytest.approx(expected, abs=A_FEW_PIXELS)


def test_images_may_leave_the_last_batch_incomplete(cfg, checkpoint, exported):
    """3 images, one at a time or all at once, and a file of a batch of 2."""
    expected = metrics_of_checkpoint(cfg, checkpoint)
    file = exported('x.pt', 'torchscript', size=(64, 128), batch=2)
    for at_once in (1, 3):
        cfg.test_dataloader.batch_size = at_once
        assert metrics_of_file(cfg, file) == pytest.approx(expected, abs=A_FEW_PIXELS)


def test_sliding_window_needs_logits(cfg, checkpoint, exported):
    cfg.model.test_cfg = dict(mode='slide', crop_size=(49, 49), stride=(30, 30))
    expected = metrics_of_checkpoint(cfg, checkpoint)
    file = exported('x.pt', 'torchscript', size=(49, 49), output='logits')
    assert metrics_of_file(cfg, file) == pytest.approx(expected, abs=A_FEW_PIXELS)
    with pytest.raises(ConfigError, match='averages logits'):
        metrics_of_file(cfg, exported('x.pt', 'torchscript', size=(49, 49)))


def test_mismatched_config_and_file_are_refused(cfg, exported, tmp_path):
    file = exported('x.onnx', 'onnx', size=(49, 49), output='logits')
    with pytest.raises(ConfigError, match=r'1x3x49x49, but got 1x3x64x128'):
        metrics_of_file(cfg, file)

    changed = copy.deepcopy(cfg)
    changed.model.data_preprocessor.mean = [0, 0, 0]
    with pytest.raises(ConfigError, match=r'123\.675.*0\.0'):
        use_exported_file(changed, file)

    changed = copy.deepcopy(cfg)
    changed.test_dataloader.dataset.metainfo = dict(classes=('sky', 'car'))
    with pytest.raises(ConfigError, match='has the classes road.*has sky, car'):
        use_exported_file(changed, file)

    bare = onnx.load(file)
    bare.ClearField('metadata_props')
    onnx.save(bare, tmp_path / 'bare.onnx')
    with pytest.raises(ConfigError, match=r'bare.onnx lacks the metadata output'):
        use_exported_file(cfg, str(tmp_path / 'bare.onnx'))

    for name in ('torn.onnx', 'torn.xml', 'torn.pt'):
        (tmp_path / name).write_bytes(b'not a model')
        with pytest.raises(ConfigError, match=f'{name} cannot be opened on cpu'):
            use_exported_file(cfg, str(tmp_path / name))
    for name, says in (('gone.onnx', 'does not exist'), ('x.pth', 'must end in one of')):
        with pytest.raises(ConfigError, match=says):
            use_exported_file(cfg, str(tmp_path / name))
    with pytest.raises(ConfigError, match='no CUDAExecutionProvider'):
        use_exported_file(cfg, file, 'cuda')


def test_padding_after_normalization_is_refused(cfg, exported):
    file = exported('x.pt', 'torchscript', size=(64, 128), normalize=True)
    changed = copy.deepcopy(cfg)
    changed.model.data_preprocessor.test_cfg = dict(size_divisor=32)
    with pytest.raises(ConfigError, match='pads them after normalizing'):
        use_exported_file(changed, file)


@pytest.mark.slow
def test_tools_print_the_table_of_the_checkpoint(cfg, checkpoint, run_tool, tmp_path):
    # In the work dir, as a training leaves it; no tool may change it.
    config = tmp_path / 'work' / 'config.py'
    config.parent.mkdir(exist_ok=True)
    cfg.dump(config)
    before = config.read_bytes()

    def run(*args):
        return run_tool(*args, cwd=tmp_path)

    done = run('export.py', config, checkpoint, '--to', 'onnx', '--size', 64, 128)
    assert done.returncode == 0, done.stderr
    assert 'largest logit error' in done.stdout
    file = tmp_path / 'work' / 'small.onnx'
    assert file.is_file()

    tables = []
    for result in (
        run('evaluate_backend.py', config, file),
        run('test.py', config, checkpoint),
    ):
        assert result.returncode == 0, result.stderr
        rows = re.findall(r'^\|\s+(\w[\w ]*?)\s+\|(.*)\|$', result.stdout, re.MULTILINE)
        assert len(rows) == 1 + 19
        cells = [cell for _, row in rows[1:] for cell in row.split('|')]
        tables.append([float(cell) for cell in cells])
    assert tables[0] == pytest.approx(tables[1], abs=5 * A_FEW_PIXELS, nan_ok=True)
    assert config.read_bytes() == before
    assert not list(tmp_path.rglob('events.out.tfevents*'))
