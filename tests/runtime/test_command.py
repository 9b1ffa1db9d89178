"""The command mmseg-repvgg runs the tools under names of its own."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from repvgg_runtime.command import SUBCOMMANDS

REPO = Path(__file__).parents[2]


def command(*args, cwd):
    """Run the command in another folder and wait for it."""
    return subprocess.run(
        [sys.executable, '-m', 'repvgg_runtime.command', *args],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(REPO)},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_every_tool_has_a_subcommand():
    tools = {file.name for file in REPO.glob('tools/*.py')}
    # The first prepares tools; the others are for the figures in docs and the demo.
    others = {'startup.py', 'make_street_scenes.py'}
    others |= {'benchmark_winograd.py', 'benchmark_training.py', 'benchmark_layers.py'}
    targets = {target for target, _ in SUBCOMMANDS.values()}
    assert {target for target in targets if target.endswith('.py')} == tools - others


@pytest.mark.parametrize('args', [[], ['-h'], ['--help']])
def test_help_lists_a_line_for_each_subcommand(args, tmp_path):
    result = command(*args, cwd=tmp_path)
    assert result.returncode == 0
    listed = re.findall(r'^  ([\w-]+) +\w', result.stdout, flags=re.M)
    assert listed == list(SUBCOMMANDS)


def test_version_is_that_of_the_distribution(tmp_path):
    result = command('--version', cwd=tmp_path)
    assert re.fullmatch(r'mmseg-repvgg \d+\.\d+\.\d+\n', result.stdout)


@pytest.mark.parametrize(
    ('given', 'says'), [('trian', 'did you mean train?'), ('--quux', 'command --quux.')]
)
def test_unknown_command_is_an_error(given, says, tmp_path):
    result = command(given, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ''
    assert result.stderr.startswith('error: ')
    assert says in result.stderr


def test_command_imports_no_heavy_package(tmp_path):
    code = (
        'import sys, repvgg_runtime.command\n'
        'heavy = {"torch", "mmseg", "mmengine", "mmcv", "cv2", "numpy", "mmseg_repvgg"}\n'
        'print(*heavy & set(sys.modules))'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=REPO, capture_output=True, text=True
    )
    assert result.stdout == '\n', result.stderr


def test_configs_are_listed_and_copied(tmp_path):
    result = command('configs', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'pspnet_r18_camvid' in result.stdout
    name = 'pspnet_repvgg_a0_street'
    result = command('configs', '--copy', name, 'mine', cwd=tmp_path)
    assert result.stdout == f'mine/{name}.py\n'
    assert (tmp_path / 'mine/_base_/runtime.py').is_file()


@pytest.mark.parametrize(
    ('args', 'says'),
    [
        (['mine'], 'at least one config'),
        (['pspnet_r19_camvid', 'mine'], 'pspnet_r18_camvid'),
    ],
)
def test_what_cannot_be_copied_is_an_error(args, says, tmp_path):
    result = command('configs', '--copy', *args, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith('usage: mmseg-repvgg configs')
    assert says in result.stderr


@pytest.mark.slow
def test_tool_knows_its_name_and_its_status_is_returned(tmp_path):
    result = command('train', '--help', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith('usage: mmseg-repvgg train [-h]')
    result = command('train', 'pspnet_repvgg_a0_stret', cwd=tmp_path)
    assert result.returncode == 2
    assert 'pspnet_repvgg_a0_street' in result.stderr
    assert os.listdir(tmp_path) == []


def test_demo_names_the_command_as_it_can_be_typed(tmp_path, monkeypatch):
    program_name = runpy.run_path(str(REPO / 'tools/demo.py'))['program_name']
    monkeypatch.chdir(tmp_path)
    script = tmp_path / '.venv/bin/mmseg-repvgg'
    monkeypatch.setattr(sys, 'executable', str(script.with_name('python')))
    monkeypatch.setenv('PATH', str(script.parent))
    assert program_name().endswith('python -m repvgg_runtime.command')  # not installed
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    assert program_name() == 'mmseg-repvgg'
    monkeypatch.setenv('PATH', '/usr/bin')
    assert program_name() == '.venv/bin/mmseg-repvgg'


@pytest.mark.slow
def test_demo_ends_with_the_status_of_a_step_that_fails(tmp_path):
    (tmp_path / 'data/street').mkdir(parents=True)
    (tmp_path / 'data/street/mine').touch()
    result = command('demo', cwd=tmp_path)
    assert result.returncode == 2
    assert 'street exists and was not made by this generator' in result.stderr
    assert os.listdir(tmp_path) == ['data']
