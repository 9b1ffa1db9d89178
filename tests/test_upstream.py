"""tests/upstream.sh finds a Python 3.10, whatever `python3.10` on PATH is."""

import shutil
import subprocess

import pytest


@pytest.fixture
def run_script(repo, tmp_path):
    """Run it in a checkout without an environment, beside a shim that runs nothing."""
    script, shim = tmp_path / 'tests' / 'upstream.sh', tmp_path / 'bin' / 'python3.10'
    script.parent.mkdir()
    shutil.copy(repo / 'tests' / 'upstream.sh', script)
    executable(shim, 'exit 127')

    def run(**env):
        path = f'{shim.parent}:/usr/bin:/bin'
        return subprocess.run(
            ['bash', script],
            env=dict(PATH=path, HOME=str(tmp_path), **env),
            capture_output=True,
            text=True,
        )

    return run


def executable(path, script):
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(0o755)


# Stands for a Python that runs, up to the first that the script does with it.
RUNS = '[ $1 = -c ] || { echo "$0 $@"; exit 3; }'


@pytest.mark.parametrize(
    'where',
    [
        '.pyenv/versions/3.10.13/bin/python',
        '.asdf/installs/python/3.10.13/bin/python',
        '.local/share/mise/installs/python/3.10.13/bin/python',
        '.local/share/uv/python/cpython-3.10.13-linux-x86_64-gnu/bin/python',
    ],
)
def test_python_of_a_version_manager_is_found(run_script, tmp_path, where):
    executable(tmp_path / where, RUNS)
    done = run_script()
    assert (done.returncode, done.stdout) == (
        3,
        f'{tmp_path / where} -m venv .venv-upstream\n',
    )


def test_python_that_is_named_is_taken_or_missed(run_script, tmp_path):
    executable(tmp_path / '.pyenv/versions/3.10.13/bin/python', RUNS)
    executable(tmp_path / 'mine' / 'python', RUNS)
    done = run_script(UPSTREAM_PYTHON=str(tmp_path / 'mine' / 'python'))
    assert done.stdout == f'{tmp_path}/mine/python -m venv .venv-upstream\n'
    done = run_script(UPSTREAM_PYTHON='/no/such/python')
    assert (done.returncode, done.stdout) == (2, '')
    assert 'UPSTREAM_PYTHON' in done.stderr
