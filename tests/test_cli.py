"""Common options of the tools, errors in one line, and output that cannot be written."""

import argparse
import io
import os
import signal
import sys

import pytest

from mmseg_repvgg import cli
from mmseg_repvgg.errors import ConfigError


@pytest.fixture(autouse=True)
def _restore_handler():
    usual = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, usual)


def test_sigterm_ends_a_tool_as_an_exception_does(monkeypatch):
    def main():
        signal.raise_signal(signal.SIGTERM)
        pytest.fail('the tool continues')

    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 128 + signal.SIGTERM


def test_ctrl_c_ends_a_tool_in_one_line(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 130
    assert capsys.readouterr().err == 'interrupted\n'


def parse(*given, **uses):
    parser = argparse.ArgumentParser()
    cli.add_common_arguments(parser, **uses)
    return parser, vars(parser.parse_args(given))


def test_options_are_parsed_as_mmengine_does():
    _, args = parse('--cfg-options', 'a.b=1', 'c=[x,(2,None)]', 'd=e=f', 'g=')
    expected = {'a.b': 1, 'c': ['x', (2, None)], 'd': 'e=f', 'g': ''}
    assert args['cfg_options'] == expected


@pytest.mark.parametrize(
    'option', ['model.dilation', '=fast', 'a..b=1', '.a=1', 'a=[1', 'a=(1']
)
def test_malformed_options_are_named(option):
    with pytest.raises(ConfigError, match='--cfg-options') as caught:
        parse('--cfg-options', 'fine=1', option)
    assert option in str(caught.value)


@pytest.mark.parametrize('given', ['0', '-1', 'x'])
def test_counts_are_at_least_1(capsys, given):
    parser = argparse.ArgumentParser()
    parser.add_argument('--rounds', type=cli.positive_int)
    assert parser.parse_args(['--rounds', '3']).rounds == 3
    with pytest.raises(SystemExit):
        parser.parse_args(['--rounds', given])
    assert f"a whole number of at least 1, but is '{given}'" in capsys.readouterr().err


def test_only_requested_options_are_offered():
    parser, args = parse(trust=False)
    assert set(args) == {'cfg_options'}
    parser, args = parse('--local_rank', '1', '--launcher', 'mpi', launcher=True)
    assert set(args) == {'cfg_options', 'launcher', 'local_rank', 'trust_checkpoint'}
    assert '--launcher' in parser.format_help()
    assert 'rank' not in parser.format_help()


@pytest.fixture(params=['buffered', 'unbuffered'])
def output(monkeypatch, request):
    """Return a function that replaces the standard output by a file."""
    files = []

    def output(file):
        raw, buffered = io.FileIO(file, 'w'), request.param == 'buffered'
        raw = io.BufferedWriter(raw) if buffered else raw
        files.append(io.TextIOWrapper(raw, write_through=not buffered))
        monkeypatch.setattr(sys, 'stdout', files[0])

    yield output
    files[0].close()


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no /dev/full')
@pytest.mark.parametrize('lines', [1, 10_000])
def test_output_that_cannot_be_written_is_an_error(output, lines, capsys):
    """Python itself would report buffered output only at exit."""
    output('/dev/full')
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: [sys.stdout.write('a line\n') for _ in range(lines)])
    assert caught.value.code == 2
    said = 'error: the output cannot be written: No space left on device\n'
    assert capsys.readouterr().err == said


def test_a_closed_pipe_ends_the_tool_silently(output, capsys):
    """``| head`` closes the pipe once it has read enough."""
    reader, writer = os.pipe()
    os.close(reader)
    output(writer)
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: sys.stdout.write('a line\n'))
    assert caught.value.code == 2
    assert capsys.readouterr().err == ''


def test_another_error_keeps_its_traceback():
    def main():
        raise OSError('another file')

    with pytest.raises(OSError, match='another file'):
        cli.run(main)
