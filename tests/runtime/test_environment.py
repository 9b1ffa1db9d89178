"""The command ``env`` prints what a bug report needs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import needs_compiler

REPO = Path(__file__).parents[2]


def env(cwd):
    """Run the command in another folder, whose modules come first."""
    return subprocess.run(
        [sys.executable, '-m', 'repvgg_runtime.command', 'env'],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(REPO)},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.slow
@needs_compiler
def test_env_reports_versions_and_engines(tmp_path):
    result = env(tmp_path)
    assert result.returncode == 0, result.stderr
    parts = re.findall(r'^(\w+):$', result.stdout, flags=re.M)
    assert parts == ['versions', 'processor', 'settings', 'devices', 'engines']
    for line in (
        r'python +3\.\d+\.\d+',
        r'torch +\d\S+',
        r'threads +\d+ on \d+ cores',
        r'pytorch +works',
        r'winograd +works, with(out)? matrix units',
    ):
        assert re.search(f'^  {line}$', result.stdout, flags=re.M), line
    assert 'Error' not in result.stdout


def test_env_reports_what_does_not_import(tmp_path):
    """The report has to work where torch or mmseg do not."""
    for name in ('torch', 'onnxruntime', 'openvino'):
        (tmp_path / f'{name}.py').write_text('raise ImportError("it is broken")\n')
    (tmp_path / 'mmseg.py').write_text('raise AttributeError("it is torn")\n')
    result = env(tmp_path)
    assert result.returncode == 0, result.stderr
    assert '  ImportError: it is broken' in result.stdout
    assert re.search('pytorch +AttributeError: it is torn', result.stdout)
