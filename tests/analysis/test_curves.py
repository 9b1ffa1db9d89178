"""Curves show what was logged, also by runs that were killed, resumed or go on."""

import json
import struct
import sys

import matplotlib as mpl
import numpy as np
import pytest

from mmseg_repvgg.analysis.curves import (
    LOSS,
    LR,
    MIOU,
    TrainingLog,
    draw_curves,
    read_log,
    save_figure,
    smooth,
)
from mmseg_repvgg.errors import ConfigError, LogError, WriteError


def trains(*iterations, loss=1.0):
    return [{'lr': 0.1, 'loss': loss, 'iter': i, 'step': i} for i in iterations]


def validates(step, miou):
    return {'aAcc': 80.0, 'mIoU': miou, 'time': 0.3, 'step': step}


def write_json(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


def write_run(folder, lines):
    write_json(folder / 'vis_data' / 'scalars.json', lines)
    return folder


@pytest.mark.parametrize('prefix', ['', 'hier/'])
def test_points_are_those_of_the_file(tmp_path, prefix):
    lines = [
        {
            prefix + key if key in ('loss', 'lr', 'mIoU') else key: v
            for key, v in x.items()
        }
        for x in [*trains(50), validates(60, 30.0), *trains(100, loss=0.5)]
    ]
    log = read_log(write_json(tmp_path / 'scalars.json', lines))
    assert log.points == {
        LOSS: [(50, 1.0), (100, 0.5)],
        LR: [(50, 0.1), (100, 0.1)],
        MIOU: [(60, 30.0)],
    }
    assert log.name == 'scalars'


def test_validation_of_an_epoch_is_at_the_last_iteration(tmp_path):
    # LoggerHook gives the epoch as the step of a validation.
    path = write_json(tmp_path / 'a.json', [*trains(50), validates(1, 30.0)])
    assert read_log(path).points[MIOU] == [(50, 30.0)]


def test_run_and_work_dir_are_found(tmp_path):
    run = write_run(tmp_path / 'work' / '20261122_033616', trains(25, 50))
    log = read_log(run)
    assert log.name == 'work/20261122_033616'
    assert log.points[LOSS] == [(25, 1.0), (50, 1.0)]
    assert read_log(run / 'vis_data' / 'scalars.json').points == log.points
    assert read_log(run.parent).points == log.points
    assert read_log(run.parent).name == 'work'


def test_resumed_run_replaces_repeated_iterations(tmp_path):
    work = tmp_path / 'work'
    first = [*trains(25, 50, loss=1.0), validates(50, 34.0), *trains(75, loss=1.0)]
    write_run(work / '1', first)
    write_run(work / '2', trains(75, 100, loss=2.0))
    # A test, and a run that was killed before it logged.
    write_run(work / '3', [validates(0, 1.0)])
    write_run(work / '4', [])
    log = read_log(work)
    assert log.points[LOSS] == [(25, 1.0), (50, 1.0), (75, 2.0), (100, 2.0)]
    assert [iteration for iteration, _ in log.points[LR]] == [25, 50, 75, 100]
    assert log.points[MIOU] == [(50, 34.0)]


@pytest.mark.parametrize('cut', [1, 10, 40])
def test_torn_last_line_is_ignored(tmp_path, cut):
    path = write_json(tmp_path / 'a.json', trains(25, 50))
    path.write_text(path.read_text()[: -cut - 1])
    assert read_log(path).points[LOSS] == [(25, 1.0)]


def test_loss_that_is_not_finite_is_kept(tmp_path):
    path = write_json(tmp_path / 'a.json', trains(25, loss=float('nan')))
    assert str(read_log(path).points[LOSS]) == '[(25, nan)]'


def test_missing_logs_are_errors(tmp_path):
    with pytest.raises(LogError, match=r'gone\.json cannot be read: No such file'):
        read_log(tmp_path / 'gone.json')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(LogError, match=r'empty has no log of a training: expected'):
        read_log(tmp_path / 'empty')


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        (b'', 'has no log of a training: expected'),
        (b'\x89PNG\r\n\x1a\n\0\0\0\xff\xfe', 'line 1 is not an object'),
        (b'2026/11/22 03:36:05 - mmengine - INFO - loss: 3\n', 'line 1 is not an object'),
        (b'{"loss": 1, "step": 1}\n[1]\n', 'line 2 is not an object'),
        (b'{"loss": null, "step": 1}\n', 'line 1 is not an object'),
        (b'{"loss": 1, "step": Infinity}\n', 'line 1 is not an object'),
        (b'{"loss": 1, "step": 1}\n{"lo\n{"loss": 1}\n', 'line 2 is not an object'),
        (b'{"mIoU": 60.0, "step": 0}\n', 'has no log of a training: expected'),
    ],
)
def test_other_files_are_errors(tmp_path, content, says):
    path = tmp_path / 'file'
    path.write_bytes(content)
    with pytest.raises(LogError) as caught:
        read_log(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def training(name='run', lr=0.01, count=40, validations=True):
    at = range(1, count + 1)
    points = {
        LOSS: [(50 * i, 3 / i) for i in at],
        LR: [(50 * i, lr * (1 - i / count)) for i in at if lr],
        MIOU: [(50 * i, 20.0 + i) for i in at if validations and i % 20 == 0],
    }
    return TrainingLog(name, points)


def panel(figure, title):
    (found,) = (axes for axes in figure.axes if axes.get_ylabel() == title)
    return found


def data(axes, index):
    return [np.asarray(values, float) for values in axes.lines[index].get_data()]


def test_curves_show_the_logged_values():
    log = training()
    before = dict(mpl.rcParams)
    figure = draw_curves([log])
    assert [axes.get_ylabel() for axes in figure.axes] == [LOSS, LR, MIOU]
    iterations = np.arange(50, 2001, 50)
    raw, mean = (data(panel(figure, LOSS), i) for i in (0, 1))
    np.testing.assert_array_equal(raw, [iterations, 3 / np.arange(1, 41)])
    np.testing.assert_array_equal(mean, [iterations, smooth(raw[1], 5)])
    np.testing.assert_allclose(
        data(panel(figure, LR), 0)[1], 0.01 * (1 - iterations / 2000)
    )
    np.testing.assert_array_equal(
        data(panel(figure, MIOU), 0), [[1000, 2000], [40.0, 60.0]]
    )
    for axes in figure.axes:
        low, high = axes.get_ylim()
        for line in axes.lines:
            values = np.asarray(line.get_ydata())
            assert low <= values.min()
            assert values.max() <= high
    (legend,) = figure.legends
    assert legend.get_texts()[0].get_text() == (
        'run  (best mIoU 60.00 % at iteration 2,000)'
    )
    assert figure.axes[-1].get_xlabel() == 'Iteration'
    assert dict(mpl.rcParams) == before


def test_quantity_without_values_has_no_panel():
    figure = draw_curves([training(lr=None, validations=False)])
    assert [axes.get_ylabel() for axes in figure.axes] == [LOSS]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ['run']


def test_runs_differ_in_more_than_colour():
    figure = draw_curves([training(str(i)) for i in range(12)])
    lines = panel(figure, MIOU).lines
    assert len({line.get_color() for line in lines[:7]}) == 7
    # get_linestyle() knows one kind of dashes only.
    looks = {(str(line._unscaled_dash_pattern), line.get_marker()) for line in lines}
    assert len(looks) == 12


def test_learning_rates_far_apart_have_a_logarithmic_axis():
    assert panel(draw_curves([training(), training('b', lr=0.05)]), LR).get_yscale() == (
        'linear'
    )
    assert (
        panel(draw_curves([training(), training('b', lr=0.5)]), LR).get_yscale() == 'log'
    )


def test_large_iterations_are_written_out(tmp_path):
    losses = [(i, 1.0) for i in (1, 125_000, 250_000)]
    figure = draw_curves([TrainingLog('long', {LOSS: losses, LR: [], MIOU: []})])
    save_figure(figure, tmp_path / 'a.png')
    assert '250,000' in [label.get_text() for label in figure.axes[-1].get_xticklabels()]


def test_single_point_is_visible():
    figure = draw_curves([training(count=1)])
    assert all(axes.lines[-1].get_marker() == 'o' for axes in figure.axes)


def test_smooth():
    falling = np.arange(10, 0, -1.0)
    np.testing.assert_allclose(smooth(falling, 5), falling)
    np.testing.assert_allclose(smooth([0, 0, 3, 0, 0], 3), [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(smooth([1, 2, 3], 1), [1, 2, 3])
    np.testing.assert_array_equal(smooth([1, 2, 3], 2), [1, 2, 3])
    np.testing.assert_allclose(smooth([1, np.nan, 3], 3), [1, 2, 3])
    assert np.isnan(smooth([np.nan], 3)).all()
    assert len(smooth([], 3)) == 0


@pytest.mark.parametrize('arguments', [dict(window=0), dict(window=-1)])
def test_window_must_be_positive(arguments):
    with pytest.raises(ValueError, match='but got'):
        draw_curves([training()], **arguments)


def test_figure_is_saved(tmp_path):
    figure = draw_curves([training(), training('b')])
    save_figure(figure, tmp_path / 'new' / 'a.png')
    content = (tmp_path / 'new' / 'a.png').read_bytes()
    width, height = struct.unpack('>II', content[16:24])
    assert content[:4] == b'\x89PNG'
    assert (width, height) == tuple(np.round(figure.get_size_inches() * 200).astype(int))
    save_figure(figure, tmp_path / 'new' / 'a.SVG')
    assert '<svg' in (tmp_path / 'new' / 'a.SVG').read_text()
    assert len(list((tmp_path / 'new').iterdir())) == 2


def test_failed_save_leaves_nothing(tmp_path):
    figure = draw_curves([training()])
    with pytest.raises(WriteError, match=r'must be one of \.png, \.svg, \.pdf'):
        save_figure(figure, tmp_path / 'a.jpeg')
    (tmp_path / 'file').touch()
    with pytest.raises(WriteError, match=r'a\.png cannot be written: .*another folder'):
        save_figure(figure, tmp_path / 'file' / 'a.png')
    (tmp_path / 'taken.png').mkdir()
    with pytest.raises(WriteError, match=r'taken\.png cannot be written'):
        save_figure(figure, tmp_path / 'taken.png')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'taken.png']


@pytest.mark.slow
def test_tool(tmp_path, run_tool):
    lines = (
        '{"loss": 2.0, "lr": 0.1, "iter": 50, "step": 50}\n{"mIoU": 30.0, "step": 50}\n'
    )
    for name in ('a', 'b'):
        (tmp_path / f'{name}.json').write_text(lines)
    result = run_tool('plot_log.py', 'a.json', 'b.json', '-o', 'c.svg', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'c.svg: a, b' in result.stdout
    assert (tmp_path / 'c.svg').is_file()
    result = run_tool('plot_log.py', 'c.svg', cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: c.svg is not a scalars')
    assert not (tmp_path / 'curves.png').exists()


def test_tool_arguments(tmp_path, repo, monkeypatch):
    monkeypatch.syspath_prepend(str(repo / 'tools'))
    import plot_log

    log = tmp_path / 'a.json'
    log.write_text('{"loss": 2.0, "iter": 50}\n')
    for wrong, says in ((['--labels', 'x', 'y'], 'for 1 logs'), (['--window', '0'], '0')):
        monkeypatch.setattr(sys, 'argv', ['plot_log.py', str(log), *wrong])
        with pytest.raises(ConfigError, match=says):
            plot_log.main()


def test_a_loss_that_is_never_finite_is_drawn(tmp_path):
    write_run(tmp_path, trains(1, 2, 3, loss=float('nan')))
    assert draw_curves([read_log(tmp_path)]).axes
