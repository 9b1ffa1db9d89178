"""Curves show what was logged, and the tool says what it cannot draw."""

import struct
import sys

import matplotlib as mpl
import numpy as np
import pytest

from mmseg_repvgg.analysis.curves import LOSS, LR, MIOU, draw_curves, save_figure, smooth
from mmseg_repvgg.analysis.logs import TrainingLog, TrainPoint, ValPoint
from mmseg_repvgg.errors import ConfigError, WriteError


def training(name='run', lr=0.01, count=40, validations=True):
    points = []
    for i in range(1, count + 1):
        points.append(TrainPoint(50 * i, 3 / i, lr and lr * (1 - i / count)))
        if validations and i % 20 == 0:
            points.append(ValPoint(50 * i, 20.0 + i))
    return TrainingLog(name, tuple(points))


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
    points = tuple(TrainPoint(i, 1.0) for i in (1, 125_000, 250_000))
    figure = draw_curves([TrainingLog('long', points)])
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
