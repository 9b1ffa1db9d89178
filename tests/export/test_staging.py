import os

import pytest

from mmseg_repvgg.errors import WriteError
from mmseg_repvgg.export.staging import staged


def write_pair(path, content):
    with staged(path) as stage:
        for suffix in ('.xml', '.bin'):
            stage.with_suffix(suffix).write_text(content)


def read_pair(folder):
    """Return the contents of graph and weights; None for a file that is missing."""
    files = (folder / 'x.xml', folder / 'x.bin')
    return tuple(file.read_text() if file.exists() else None for file in files)


def fail_at(step, error, monkeypatch):
    """Raise an error in place of one of the moves."""
    replace, calls = os.replace, []

    def fail(*args):
        calls.append(args)
        if len(calls) == step:
            raise error
        replace(*args)

    monkeypatch.setattr(os, 'replace', fail)


def test_pair_is_replaced(tmp_path):
    for content in ('old', 'new'):
        write_pair(tmp_path / 'x.xml', content)
        assert read_pair(tmp_path) == (content, content)
        assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('step', [1, 2, 3, 4])
@pytest.mark.parametrize('error', [OSError(5, 'Input/output error'), KeyboardInterrupt()])
def test_failing_step_leaves_the_old_pair(tmp_path, monkeypatch, step, error):
    write_pair(tmp_path / 'x.xml', 'old')
    fail_at(step, error, monkeypatch)
    with pytest.raises(WriteError if isinstance(error, OSError) else KeyboardInterrupt):
        write_pair(tmp_path / 'x.xml', 'new')
    assert read_pair(tmp_path) == ('old', 'old')
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('step', [1, 2])
def test_failing_step_leaves_no_new_file(tmp_path, monkeypatch, step):
    fail_at(step, OSError(5, 'Input/output error'), monkeypatch)
    with pytest.raises(WriteError, match=r'x\.xml cannot be written: Input/output error'):
        write_pair(tmp_path / 'x.xml', 'new')
    assert not list(tmp_path.iterdir())


def test_graph_never_lies_beside_the_weights_of_another(tmp_path, monkeypatch):
    """A process killed at any moment leaves no pair that computes nonsense."""
    write_pair(tmp_path / 'x.xml', 'old')
    replace, seen = os.replace, []

    def watch(*args):
        replace(*args)
        seen.append(read_pair(tmp_path))

    monkeypatch.setattr(os, 'replace', watch)
    write_pair(tmp_path / 'x.xml', 'new')
    assert len(seen) == 4
    assert all(graph in (None, weights) for graph, weights in seen)


def test_files_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / '.x.xml.partial' / 'old').mkdir(parents=True)
    for name in ('x.txt', 'old/x.xml', 'old/x.bin'):
        (tmp_path / '.x.xml.partial' / name).write_text('old')
    write_pair(tmp_path / 'x.xml', 'new')
    assert read_pair(tmp_path) == ('new', 'new')
    assert len(list(tmp_path.iterdir())) == 2


def test_single_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / 'x.onnx'
    replace, calls = os.replace, []
    monkeypatch.setattr(os, 'replace', lambda *args: calls.append(args) or replace(*args))
    for content in ('old', 'new'):
        with staged(path) as stage:
            stage.write_text(content)
        assert path.read_text() == content
    assert len(calls) == 2
