"""A pair of files is replaced whole or not at all."""

import os

import pytest

from mmseg_repvgg.errors import WriteError
from mmseg_repvgg.export.exporting import staged


def export(path, content):
    with staged(path) as stage:
        for suffix in ('.xml', '.bin'):
            stage.with_suffix(suffix).write_text(content)


def pair(folder):
    """The contents of graph and weights; None for a file that is missing."""
    files = (folder / 'x.xml', folder / 'x.bin')
    return tuple(file.read_text() if file.exists() else None for file in files)


def test_a_pair_is_replaced(tmp_path):
    for content in ('old', 'new'):
        export(tmp_path / 'x.xml', content)
        assert pair(tmp_path) == (content, content)
        assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('step', [1, 2, 3, 4])
@pytest.mark.parametrize('error', [OSError(5, 'Input/output error'), KeyboardInterrupt()])
def test_a_step_that_fails_leaves_the_old_pair(tmp_path, monkeypatch, step, error):
    export(tmp_path / 'x.xml', 'old')
    replace, calls = os.replace, []

    def fails(*args):
        calls.append(args)
        if len(calls) == step:
            raise error
        replace(*args)

    monkeypatch.setattr(os, 'replace', fails)
    with pytest.raises(WriteError if isinstance(error, OSError) else KeyboardInterrupt):
        export(tmp_path / 'x.xml', 'new')
    assert pair(tmp_path) == ('old', 'old')
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('step', [1, 2])
def test_a_step_that_fails_leaves_nothing_new(tmp_path, monkeypatch, step):
    replace, calls = os.replace, []

    def fails(*args):
        calls.append(args)
        if len(calls) == step:
            raise OSError(5, 'Input/output error')
        replace(*args)

    monkeypatch.setattr(os, 'replace', fails)
    with pytest.raises(WriteError, match='Input/output error'):
        export(tmp_path / 'x.xml', 'new')
    assert not list(tmp_path.iterdir())


def test_no_graph_ever_lies_beside_the_weights_of_another(tmp_path, monkeypatch):
    """So a process that is killed at any moment leaves no pair that computes nonsense."""
    export(tmp_path / 'x.xml', 'old')
    replace, seen = os.replace, []

    def watched(*args):
        replace(*args)
        seen.append(pair(tmp_path))

    monkeypatch.setattr(os, 'replace', watched)
    export(tmp_path / 'x.xml', 'new')
    assert len(seen) == 4
    assert all(graph in (None, weights) for graph, weights in seen)


def test_what_a_killed_run_left_is_cleared(tmp_path):
    for name in ('.x.xml.old', '.x.bin.old'):
        (tmp_path / name).write_text('old')
    export(tmp_path / 'x.xml', 'new')
    assert pair(tmp_path) == ('new', 'new')
    assert len(list(tmp_path.iterdir())) == 2


def test_a_single_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / 'x.onnx'
    replace, calls = os.replace, []
    monkeypatch.setattr(os, 'replace', lambda *args: calls.append(args) or replace(*args))
    for content in ('old', 'new'):
        with staged(path) as stage:
            stage.write_text(content)
        assert path.read_text() == content
    assert len(calls) == 2
