"""The progress of a training on a terminal and in other output."""

import os
import pty
import re
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.hooks import progress_hook
from mmseg_repvgg.hooks.progress_hook import ProgressHook


def on_a_terminal(command, folder):
    """Run a command on a new terminal; return its status and what was drawn."""
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, 'TERM': 'xterm', 'COLUMNS': '120'},
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
    )
    os.close(other)
    limit = threading.Timer(900, process.kill)
    limit.start()
    drawn = b''
    try:
        while part := os.read(terminal, 65536):
            drawn += part
    except OSError:  # The other side has closed it.
        pass
    limit.cancel()
    os.close(terminal)
    return process.wait(), drawn.decode()


def train(street_config_file, repo, folder, *options):
    tool = str(repo / 'tools' / 'train.py')
    return on_a_terminal(
        [sys.executable, tool, str(street_config_file), *options], folder
    )


def test_a_terminal_shows_a_bar_and_the_validations(street_config_file, repo, tmp_path):
    status, drawn = train(street_config_file, repo, tmp_path)
    assert status == 0, drawn
    text = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', drawn)
    assert re.search(r'training \S+ 4/4 [\d.]+ (it/s|s/it) 0:00:00 left  loss \d', text)
    assert 'mIoU' in drawn
    # The log file has the lines that the bar replaces.
    (log,) = (tmp_path / 'work').glob('*/*.log')
    assert 'Iter(train) [4/4]' in log.read_text()
    assert 'Iter(train)' not in drawn
    # The cursor, which a bar hides, is shown again.
    assert drawn.rindex('\x1b[?25h') > drawn.rindex('\x1b[?25l')


def test_a_failed_training_restores_the_terminal(street_config_file, repo, tmp_path):
    status, drawn = train(
        street_config_file,
        repo,
        tmp_path,
        '--cfg-options',
        'optim_wrapper.optimizer.lr=1e30',
    )
    assert status == 2
    assert 'error: ' in drawn
    assert drawn.rindex('\x1b[?25h') > drawn.rindex('\x1b[?25l')


def test_validation_after_an_interrupted_training_is_logged(street_config, monkeypatch):
    terminal = SimpleNamespace(is_jupyter=False, is_terminal=True)
    monkeypatch.setattr(progress_hook, 'Console', lambda: terminal)
    runner = build_runner(street_config)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.model, 'train_step', interrupt)
    levels = [handler.level for handler in runner.logger.handlers]
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    runner.val()
    assert [handler.level for handler in runner.logger.handlers] == levels


@pytest.mark.parametrize('verbose', [False, True])
def test_config_and_hooks_go_to_the_log_file_only(
    street_config_file, run_tool, tmp_path, verbose
):
    options = ['--verbose'] if verbose else []
    result = run_tool('train.py', street_config_file, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (log,) = (tmp_path / 'work').glob('*/*.log')
    for words in ('System environment', 'Config:', 'Hooks will be executed'):
        assert words in log.read_text()
        assert (words in result.stdout) == verbose
    # Without a terminal, lines replace the bar.
    assert 'Iter(train) [4/4]' in result.stdout
    assert ('Iteration 1 of 4, ' in result.stdout) != verbose


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(
            progress_hook, 'time', SimpleNamespace(monotonic=lambda: self.now)
        )


@pytest.fixture
def lines(monkeypatch):
    """Return the lines of a training of 1,000 iterations of 7 s."""
    clock, said = Clock(monkeypatch), []
    runner = SimpleNamespace(
        iter=0, max_iters=1000, logger=SimpleNamespace(info=said.append)
    )
    hook = ProgressHook()
    hook.before_train(runner)
    for runner.iter in range(1000):
        clock.now += 7
        hook.after_train_iter(runner, runner.iter)
    return said


def test_plain_lines_begin_with_the_first_iteration(lines):
    assert lines[0] == 'Iteration 1 of 1000, 7.00 s each, 1:56:33 left'


def test_plain_lines_follow_at_growing_distances(lines):
    at = [int(line.split()[1]) for line in lines]
    assert at == [1, 6, 12, 24, 48, 96, 192, 384, 768]


def test_time_left_of_a_resumed_run_counts_its_own_iterations(monkeypatch):
    clock, said = Clock(monkeypatch), []
    runner = SimpleNamespace(
        iter=600, max_iters=1000, logger=SimpleNamespace(info=said.append)
    )
    hook = ProgressHook()
    hook.before_train(runner)
    clock.now = 2
    hook.after_train_iter(runner, 0)
    assert said == ['Iteration 601 of 1000, 2.00 s each, 0:13:18 left']
