"""What the tools share: options, errors as one line, output that does not arrive."""

import argparse
import io
import os
import sys

import pytest

from mmseg_repvgg import cli
from mmseg_repvgg.errors import ConfigError


def parse(*given, **uses):
    parser = argparse.ArgumentParser()
    cli.add_common_arguments(parser, **uses)
    return parser, vars(parser.parse_args(given))


def test_options_are_mmengines():
    _, args = parse('--cfg-options', 'a.b=1', 'c=[x,(2,None)]', 'd=e=f', 'g=')
    expected = {'a.b': 1, 'c': ['x', (2, None)], 'd': 'e=f', 'g': ''}
    assert args['cfg_options'] == expected


@pytest.mark.parametrize(
    'option', ['model.dilation', '=fast', 'a..b=1', '.a=1', 'a=[1', 'a=(1']
)
def test_options_that_are_none(option):
    with pytest.raises(ConfigError, match='--cfg-options') as caught:
        parse('--cfg-options', 'fine=1', option)
    assert option in str(caught.value)


def test_only_what_does_something_is_offered():
    parser, args = parse(trust=False)
    assert set(args) == {'cfg_options'}
    parser, args = parse('--local_rank', '1', '--launcher', 'mpi', launcher=True)
    assert set(args) == {'cfg_options', 'launcher', 'local_rank', 'trust_checkpoint'}
    assert '--launcher' in parser.format_help()
    assert 'rank' not in parser.format_help()


@pytest.fixture(params=['buffered', 'unbuffered'])
def output(monkeypatch, request):
    """Put a file in the place of the standard output, and close it in the end."""
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
def test_output_that_does_not_arrive(output, lines, capsys):
    """Of what is buffered, Python itself would hear only at its exit."""
    output('/dev/full')
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: [sys.stdout.write('a line\n') for _ in range(lines)])
    assert caught.value.code == 2
    said = 'error: the output cannot be written: No space left on device\n'
    assert capsys.readouterr().err == said


def test_output_that_nobody_reads(output, capsys):
    """Such as that of head, which has read enough."""
    reader, writer = os.pipe()
    os.close(reader)
    output(writer)
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: sys.stdout.write('a line\n'))
    assert caught.value.code == 2
    assert capsys.readouterr().err == ''


def test_another_error_keeps_its_traceback():
    def main():
        raise OSError('not of the output')

    with pytest.raises(OSError, match='not of the output'):
        cli.run(main)
