"""Files for the Cityscapes server, judged by its evaluation script."""

import re
import shutil
from importlib import import_module

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.datasets import CityscapesDataset
from mmseg.registry import MODELS
from PIL import Image

from demo.street import write_street_scenes
from mmseg_repvgg.engine.leaderboard import size_warnings, use_label_ids
from mmseg_repvgg.errors import ConfigError

pytest.importorskip('cityscapesscripts', reason="needs pip install -e '.[cityscapes]'")
pytestmark = pytest.mark.slow

CLASSES = CityscapesDataset.METAINFO['classes']


@pytest.fixture(scope='module')
def scene(tmp_path_factory, small_street_config):
    """Draw scenes without labels for the test split; save a config and a checkpoint."""
    folder = tmp_path_factory.mktemp('leaderboard')
    root = folder / 'street'
    counts = {'train': 1, 'val': 4, 'test': 3}
    write_street_scenes(root, counts=counts, size=(64, 128), seed=0)
    shutil.rmtree(root / 'gtFine' / 'test')
    cfg = small_street_config(root, folder)
    cfg.dump(folder / 'config.py')
    _save_checkpoint(cfg, root, folder / 'model.pth')
    return folder


def _save_checkpoint(cfg, root, path):
    """Train on the validation images, so that some classes are right."""
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    images, labels = [], []
    for image in sorted(root.glob('leftImg8bit/val/*/*.png')):
        label = str(image).replace('leftImg8bit', 'gtFine')
        label = label.replace('_gtFine.png', '_gtFine_labelTrainIds.png')
        images.append(torch.from_numpy(cv2.imread(str(image))).permute(2, 0, 1))
        labels.append(torch.from_numpy(cv2.imread(label, cv2.IMREAD_UNCHANGED)).long())
    inputs = model.data_preprocessor(dict(inputs=images))['inputs']
    for _ in range(25):
        logits = torch.nn.functional.interpolate(model(inputs), labels[0].shape)
        loss = torch.nn.functional.cross_entropy(
            logits, torch.stack(labels), ignore_index=255
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)


@pytest.fixture
def cfg(scene):
    return Config.fromfile(scene / 'config.py')


def official(root, folder):
    """Return the IoU of every class in percent by the script that the server runs."""
    module = import_module('cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling')
    args = module.args
    args.predictionPath, args.predictionWalk = str(folder), None
    # Scores of instances call a function that numpy 2.4 removed.
    args.evalInstLevelScore = args.JSONOutput = False
    args.quiet = True
    truth = sorted(map(str, root.glob('gtFine/val/*/*_gtFine_labelIds.png')))
    found = [module.getPrediction(args, path) for path in truth]
    scores = module.evaluateImgLists(found, truth, args)
    mean = 100 * scores['averageScoreClasses']
    return mean, {name: 100 * scores['classScores'][name] for name in CLASSES}


def test_the_official_script_finds_the_same_scores(scene, tmp_path, run_tool):
    command = 'test.py', scene / 'config.py', scene / 'model.pth'
    evaluated = run_tool(*command, cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    out = tmp_path / 'files'
    written = run_tool(
        *command, '--format-only', '--split', 'val', '--out', out, cwd=tmp_path
    )
    assert written.returncode == 0, written.stderr
    assert 'evaluating the fused model' in written.stdout
    assert 'mIoU: ' not in written.stdout
    assert '4 images, the val split of Cityscapes 500' in written.stdout
    assert len(list(out.iterdir())) == 4

    mean, classes = official(scene / 'street', out)
    (theirs,) = re.findall(r'mIoU: ([\d.]+)', evaluated.stdout)
    assert mean == pytest.approx(float(theirs), abs=0.01)
    rows = dict(re.findall(r'\| +([a-z ]+?) +\| +([\d.]+|nan) +\|', evaluated.stdout))
    assert tuple(rows) == CLASSES
    for name, iou in classes.items():
        assert iou == pytest.approx(float(rows[name]), abs=0.01, nan_ok=True), name
    # With right, wrong and absent classes, a wrong mapping would fail.
    assert sum(iou > 20 for iou in classes.values()) >= 3
    assert any(np.isnan(iou) for iou in classes.values())


def test_test_split_without_labels(scene, tmp_path, run_tool):
    out = tmp_path / 'files'
    result = run_tool(
        'test.py',
        scene / 'config.py',
        scene / 'model.pth',
        '--format-only',
        '--out',
        out,
        '--tta',
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert 'evaluating the fused model' in result.stdout
    assert '3 images, the test split of Cityscapes 1525' in result.stdout
    images = sorted((scene / 'street' / 'leftImg8bit' / 'test').glob('*/*.png'))
    # A temporary file would be sent to the server as well.
    assert sorted(path.name for path in out.iterdir()) == [path.name for path in images]
    for path in out.iterdir():
        assert re.fullmatch(r'polygonia_\d{6}_\d{6}_leftImg8bit\.png', path.name)
        labels = np.asarray(Image.open(path))
        assert (labels.shape, labels.dtype) == ((64, 128), np.uint8)
        # Road, building, vegetation, sky and the like, none of them 0 to 6.
        assert len(np.unique(labels)) >= 3
        assert set(np.unique(labels)) <= {7, 8, *range(11, 14), 17, *range(19, 34)}


def test_a_full_split_is_no_warning(cfg, tmp_path, monkeypatch):
    use_label_ids(cfg, str(tmp_path / 'files'), 'test')
    assert len(size_warnings(cfg)) == 1
    monkeypatch.setattr(
        'mmseg_repvgg.engine.leaderboard.EXPECTED', {'train': 1, 'val': 4, 'test': 3}
    )
    assert size_warnings(cfg) == []


def test_only_label_steps_are_removed(cfg, tmp_path):
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    use_label_ids(cfg, str(tmp_path / 'files'), 'val')
    load, augment = cfg.test_dataloader.dataset.pipeline
    assert load.type == 'LoadCheckedImage'
    kinds = [[step.type for step in steps] for steps in augment.transforms]
    assert kinds == [['Resize'] * 2, ['RandomFlip'] * 2, ['PackSegInputs']]
    assert not (tmp_path / 'files').exists()


def full(cfg, out):
    out.mkdir()
    (out / 'aachen.png').touch()


def file(cfg, out):
    out.touch()


def camvid(cfg, out):
    cfg.test_dataloader.dataset.type = 'CamVidDataset'


def no_split(cfg, out):
    cfg.test_dataloader.dataset.data_prefix.img_path = 'leftImg8bit'


def several(cfg, out):
    both = [cfg.test_dataloader.dataset] * 2
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=both)


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (full, '--out .*files exists and is not an empty folder'),
        (file, '--out .*files exists and is not an empty folder'),
        (camvid, 'whose 19 classes are not the 11 of CamVidDataset'),
        (several, 'a single data set of Cityscapes, but .* is a ConcatDataset'),
        (no_split, "ends with one of train, val, test, got 'leftImg8bit'"),
    ],
)
def test_a_config_that_does_not_fit_the_server_is_refused(cfg, tmp_path, change, says):
    out = tmp_path / 'files'
    change(cfg, out)
    with pytest.raises(ConfigError, match=says):
        use_label_ids(cfg, str(out), 'test')
