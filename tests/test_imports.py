"""Packages import one way, as docs/design.md states."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / 'mmseg_repvgg'
RUNTIME = ROOT.parent / 'repvgg_runtime'
# A package imports from itself, those before it and the modules at the bottom.
PACKAGES = ['winograd', 'reparam', 'checkpoints', 'models', 'datasets', 'hooks', 'engine']
PACKAGES += ['inference', 'analysis', 'report', 'export']
PLAIN_PYTORCH = ['winograd', 'reparam']
ENTRY_POINTS = {'__init__', 'cli', 'safe_loading'}
BOTTOM = {path.stem for path in ROOT.glob('*.py')} - ENTRY_POINTS


def imported_by(*files):
    """Return the dotted names of all modules that files of the package import."""
    names = set()
    for file in files:
        package = file.relative_to(ROOT.parent).parts[:-1]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                ends = (
                    [node.module] if node.module else [each.name for each in node.names]
                )
                names |= {'.'.join([*base, end]) for end in ends}
    return names


def packages_imported_by(*files):
    ours = [name.split('.') for name in imported_by(*files)]
    return {parts[1] for parts in ours if parts[0] == 'mmseg_repvgg'} - {'__version__'}


def test_every_package_has_a_place():
    assert {file.parent.name for file in ROOT.glob('*/__init__.py')} == set(PACKAGES)


@pytest.mark.parametrize('package', PACKAGES)
def test_package_imports_only_packages_before_it(package):
    allowed = BOTTOM | set(PACKAGES[: PACKAGES.index(package) + 1])
    assert packages_imported_by(*(ROOT / package).glob('*.py')) <= allowed


def test_modules_at_the_bottom_import_no_package():
    assert packages_imported_by(*(ROOT / f'{name}.py' for name in BOTTOM)) <= BOTTOM


@pytest.mark.parametrize('package', PLAIN_PYTORCH)
def test_package_is_plain_pytorch(package):
    roots = {name.split('.')[0] for name in imported_by(*(ROOT / package).glob('*.py'))}
    assert not roots & {'mmseg', 'mmengine', 'mmcv'}


def test_runtime_is_the_lowest_and_needs_no_torch_to_be_imported():
    roots = {name.split('.')[0] for name in imported_by(*RUNTIME.rglob('*.py'))}
    assert not roots & {'mmseg_repvgg', 'torch', 'mmseg', 'mmengine', 'mmcv'}


def test_package_does_not_import_what_surrounds_it():
    roots = {name.split('.')[0] for name in imported_by(*ROOT.rglob('*.py'))}
    assert not roots & {'benchmarks', 'demo', 'tools', 'tests'}


def test_importing_registers_and_prints_nothing(tmp_path):
    code = (
        'import mmseg_repvgg as m\n'
        'from mmseg.registry import DATASETS, HOOKS, MODELS\n'
        "assert MODELS.get('RepVGG') is m.RepVGG\n"
        "assert HOOKS.get('DeployHook') is m.DeployHook\n"
        "assert DATASETS.get('CamVidDataset') is m.CamVidDataset\n"
    )
    env = {**os.environ, 'PYTHONPATH': str(ROOT.parent)}
    command = [sys.executable, '-c', code]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900
    )
    assert (done.returncode, done.stdout) == (0, ''), done.stderr
