"""The wheel, installed away from the checkout, has all that the command needs."""

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import cv2
import pytest
from mmengine.config import Config
from packaging.requirements import Requirement

from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.export.exported import export
from repvgg_runtime.segmenter import ExportedSegmenter

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[1]
STREET = 'pspnet_repvgg_a0_street'


def run(*command, cwd):
    """Run a command that finds nothing but what is installed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**env, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Build the wheel from the source distribution, of a copy of the checkout."""
    pytest.importorskip('build')
    folder = tmp_path_factory.mktemp('build')
    left_out = ('.*', '*.egg-info', 'build', 'dist', 'data', 'site', 'work_dirs')
    unneeded = shutil.ignore_patterns(*left_out, '__pycache__', 'tests', 'docs')
    shutil.copytree(REPO, folder / 'copy', ignore=unneeded)
    build = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', folder]
    run(*build, folder / 'copy', cwd=folder)
    (built,) = folder.glob('*.whl')
    return built


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """Install the wheel into a new environment; return its folder of commands.

    The environment also sees the packages of this one, but not the checkout: Python does
    not process the ``.pth`` files in folders that another ``.pth`` file names.
    """
    own = new_environment(wheel, tmp_path_factory.mktemp('environment'))
    shared = [path for path in sys.path if Path(path).name.endswith('-packages')]
    (own / 'shared.pth').write_text('\n'.join(shared))
    return own.parents[2] / 'bin'


def new_environment(wheel, folder):
    """Install the wheel alone; return the folder of packages."""
    run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd=folder)
    pip = [sys.executable, '-m', 'pip', '--python', folder / 'bin/python', 'install']
    run(*pip, '--quiet', '--no-index', '--no-deps', wheel, cwd=folder)
    (own,) = folder.glob('lib/python*/site-packages')
    return own


def link_packages(names, own):
    """Link installed distributions, with all that they require, into a folder."""
    waiting, done = list(names), set()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        found = metadata.distribution(name)
        for top in {file.parts[0] for file in found.files} - {'..', '__pycache__'}:
            if not (own / top).exists():
                (own / top).symlink_to(found.locate_file(top))
        required = map(Requirement, found.requires or ())
        waiting += [
            each.name
            for each in required
            if each.marker is None or each.marker.evaluate({'extra': ''})
        ]


@pytest.fixture(scope='module')
def small_environment(wheel, tmp_path_factory):
    """The wheel with four packages, and neither torch nor mmseg."""
    pytest.importorskip('onnxruntime')
    own = new_environment(wheel, tmp_path_factory.mktemp('small'))
    link_packages(('numpy', 'opencv-python', 'pillow', 'onnxruntime'), own)
    return own.parents[2] / 'bin'


def test_four_packages_are_enough_for_an_exported_file(
    small_environment, trained, street_images, tmp_path, assert_best_labels
):
    code = (
        'import importlib.util as u\n'
        "names = 'torch mmseg mmengine mmcv matplotlib onnx'.split()\n"
        'print([name for name in names if u.find_spec(name)])'
    )
    assert run(small_environment / 'python', '-c', code, cwd=tmp_path) == '[]\n'

    cfg = Config.fromfile(trained[0])
    file = tmp_path / 'street.onnx'
    model = load_model(cfg, trained[1])
    export(cfg, model, file, 'onnx', dynamic=True, normalize=True, output='logits')
    command = [small_environment / 'mmseg-repvgg', 'predict', '-o', 'out', '-m']
    said = run(*command, file, *street_images, cwd=tmp_path)
    assert said.startswith('images: 3, ')
    segmenter = ExportedSegmenter(file)
    for image in street_images:
        labels = cv2.imread(str(tmp_path / 'out/labels' / image.name), -1)
        assert_best_labels(labels, segmenter.probabilities(image))
        assert (tmp_path / 'out/overlay' / f'{image.stem}.jpg').is_file()


def test_a_checkpoint_needs_torch_and_the_message_says_so(
    small_environment, trained, street_images, tmp_path
):
    done = subprocess.run(
        [small_environment / 'mmseg-repvgg', 'predict', street_images[0]]
        + ['-o', 'out', '-m', trained[1], '-c', trained[0]],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith('PYTHON')},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith('error: ')
    assert 'needs torch and MMSegmentation' in done.stderr


def test_checkout_is_not_what_runs(installed, tmp_path):
    code = 'import mmseg_repvgg as a, repvgg_runtime as b; print(a.__file__, b.__file__)'
    files = run(installed / 'python', '-c', code, cwd=tmp_path).split()
    assert len(files) == 2
    assert all(Path(file).is_relative_to(installed.parent) for file in files)


def files_in(root, *folders):
    """Return the files in folders below a root, except for compiled ones."""
    found = {path for each in folders for path in (root / each).rglob('*')}
    kept = {path for path in found if path.is_file() and path.suffix != '.pyc'}
    return {path.relative_to(root) for path in kept}


def test_wheel_holds_the_files_of_the_checkout(installed):
    """``.mim`` is where mim looks, and the root that the tools find."""
    (own,) = installed.parent.glob('lib/python*/site-packages')
    tools = ('configs', 'tools', 'demo', 'benchmarks')
    packed = files_in(own / 'mmseg_repvgg/.mim', '.')
    assert packed == files_in(REPO, *tools) | {Path('model-index.yml')}
    packages = ('mmseg_repvgg', 'repvgg_runtime')
    code = {path for path in files_in(own, *packages) if '.mim' not in path.parts}
    assert code == files_in(REPO, *packages)


def test_configs_are_listed_and_copied(installed, tmp_path):
    command = installed / 'mmseg-repvgg'
    assert run(command, '--version', cwd=tmp_path).startswith('mmseg-repvgg ')
    assert STREET in run(command, 'configs', cwd=tmp_path)
    run(command, 'configs', '--copy', STREET, 'mine', cwd=tmp_path)
    assert (tmp_path / 'mine' / f'{STREET}.py').is_file()


def test_demo_then_predict_and_train_by_name(installed, tmp_path):
    command = installed / 'mmseg-repvgg'
    said = run(command, 'demo', '--scenes', 8, '--iterations', 2, cwd=tmp_path)
    assert 'fused is' in said
    (line,) = [line for line in said.splitlines() if ' predict ' in line]
    assert len(list((tmp_path / 'work_dirs/demo/pictures').glob('*.png'))) == 2
    assert '  curves                      work_dirs/demo/curves.png (loss' in said
    curves = cv2.imread(str(tmp_path / 'work_dirs/demo/curves.png'))
    assert curves.shape[:2] == (1400, 1440)  # three panels
    # The printed command, as a user would paste it.
    run(command, *line.split()[1:], cwd=tmp_path)
    assert len(list((tmp_path / 'work_dirs/demo/predicted/labels').rglob('*.png'))) == 8

    (checkpoint,) = (tmp_path / 'work_dirs/demo').glob('iter_2.pth')
    model = ['-m', checkpoint, '-c', 'pspnet_repvgg_a0_fast_street']
    images = 'data/street/leftImg8bit/val'
    said = run(command, 'predict', images, '-o', 'results', *model, cwd=tmp_path)
    assert said.startswith('images: 2, ')
    assert len(list((tmp_path / 'results/labels').rglob('*.png'))) == 2

    options = ['train_cfg.max_iters=1', 'train_dataloader.batch_size=2']
    run(command, 'train', STREET, '--cfg-options', *options, cwd=tmp_path)
    assert (tmp_path / 'work_dirs' / STREET / 'iter_1.pth').is_file()
