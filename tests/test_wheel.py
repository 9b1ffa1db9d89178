"""The wheel, installed away from the checkout, has all that the command needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    folder = tmp_path_factory.mktemp('environment')
    run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd=folder)
    python = folder / 'bin/python'
    pip = [sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet']
    run(*pip, '--no-index', '--no-deps', wheel, cwd=folder)
    shared = [path for path in sys.path if Path(path).name.endswith('-packages')]
    (own,) = folder.glob('lib/python*/site-packages')
    (own / 'shared.pth').write_text('\n'.join(shared))
    return folder / 'bin'


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
    # The printed command, as a user would paste it.
    run(command, *line.split()[1:], cwd=tmp_path)
    assert len(list((tmp_path / 'predicted/labels').rglob('*.png'))) == 8

    (checkpoint,) = (tmp_path / 'work_dirs/demo').glob('iter_2.pth')
    model = ['-m', checkpoint, '-c', 'pspnet_repvgg_a0_fast_street']
    images = 'data/street/leftImg8bit/val'
    said = run(command, 'predict', images, '-o', 'results', *model, cwd=tmp_path)
    assert said.startswith('images: 2, ')
    assert len(list((tmp_path / 'results/labels').rglob('*.png'))) == 2

    options = ['train_cfg.max_iters=1', 'train_dataloader.batch_size=2']
    run(command, 'train', STREET, '--cfg-options', *options, cwd=tmp_path)
    assert (tmp_path / 'work_dirs' / STREET / 'iter_1.pth').is_file()
