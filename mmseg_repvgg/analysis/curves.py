"""Draw loss, learning rate and mIoU of trainings over iterations."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from repvgg_runtime.atomic_write import write_atomically

from ..errors import WriteError
from .logs import TrainingLog

FORMATS = ('png', 'svg', 'pdf')
LOSS, LR, MIOU = 'Training loss', 'Learning rate', 'Validation mIoU (%)'

# Okabe and Ito's palette for colour-blind readers, without its yellow, which is too light
# on paper. Dashes and marks distinguish the lines in grey, and where they overlap.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#000000', '#56B4E9', '#E69F00')
_DASHES = ('-', (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_MARKS = ('o', 's', '^', 'D', 'v', 'P')
_CORNER: dict[str, Any] = dict(ha='right', va='top', color='#555555')


def draw_curves(logs: Sequence[TrainingLog], window: int | None = None) -> Figure:
    """Draw trainings over each other, with a panel for each quantity that was logged.

    The logged losses are a light line, their centred mean a strong one.

    Args:
        logs: One or more, told apart by their names.
        window: Number of logged lines in the mean of the loss; by default a tenth of
            them, at least 5; 1 for no mean.

    Returns:
        A figure for :func:`save_figure`, independent of pyplot's state.
    """
    if window is not None and window < 1:
        raise ValueError(f'window must be at least 1, but got {window!r}')
    titles = [LOSS]
    if any(point.lr is not None for log in logs for point in log.training):
        titles.append(LR)
    if any(log.validations for log in logs):
        titles.append(MIOU)
    figure = Figure(figsize=(7.2, 2.1 * len(titles) + 0.5 + 0.2 * len(logs)))
    figure.set_layout_engine('constrained', h_pad=0.06)
    axes = figure.subplots(len(titles), sharex=True, squeeze=False)[:, 0]
    handles = []
    for index, log in enumerate(logs):
        look: dict[str, Any] = dict(
            color=_COLOURS[index % len(_COLOURS)],
            linestyle=_DASHES[index % len(_DASHES)],
            marker=_MARKS[index % len(_MARKS)],
            markersize=4.5,
            linewidth=1.6,
        )
        _draw(dict(zip(titles, axes)), log, window, look)
        handles.append(Line2D([], [], label=_label(log), **look))
    for panel, title in zip(axes, titles):
        _style(panel, title)
    axes[-1].set_xlim(left=0)
    axes[-1].set_xlabel('Iteration')
    axes[-1].xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:,.10g}'))
    legend: dict[str, Any] = dict(frameon=False, handlelength=3, fontsize=9)
    figure.legend(handles=handles, loc='outside upper left', **legend)
    figure.align_ylabels()
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically.

    Args:
        figure: The figure.
        path: The file, whose suffix is one of :data:`FORMATS`. Missing folders are made.

    Raises:
        WriteError: If the suffix is another, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise WriteError(
            f'{path} cannot be drawn: its suffix must be one of '
            f'{", ".join(f".{name}" for name in FORMATS)}'
        )
    drawn = io.BytesIO()
    figure.savefig(drawn, format=kind, dpi=200)
    write_atomically(path, drawn.getvalue())


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Average each value with its neighbours.

    Near an end the window shrinks on both sides alike, so that slopes are kept. Values
    that are not finite are ignored.

    Args:
        values: In order.
        window: Number of values in a mean, rounded down to an odd one.

    Returns:
        As many values; NaN where a window holds no finite value.
    """
    array = np.asarray(values, dtype=float)
    finite = np.isfinite(array)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, array, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    index = np.arange(len(array))
    reach = np.minimum((window - 1) // 2, np.minimum(index, index[::-1]))
    first, last = index - reach, index + reach + 1
    with np.errstate(invalid='ignore'):
        return (sums[last] - sums[first]) / (counts[last] - counts[first])


def _label(log: TrainingLog) -> str:
    if not log.validations:
        return log.name
    best = max(log.validations, key=lambda point: point.miou)
    return f'{log.name}  (best mIoU {best.miou:.2f} % at iteration {best.iteration:,})'


def _draw(
    panels: dict[str, Axes], log: TrainingLog, window: int | None, look: dict[str, Any]
) -> None:
    training, validations = log.training, log.validations
    iterations = [point.iteration for point in training]
    losses = [point.loss for point in training]
    window = window or max(5, len(losses) // 10)
    # A single point would be invisible without its mark.
    line = {**look, 'marker': ''} if len(training) > 1 else look
    if window > 2:
        panels[LOSS].plot(iterations, losses, c=look['color'], alpha=0.35, linewidth=0.8)
    panels[LOSS].plot(iterations, smooth(losses, window), **line)
    if LR in panels:
        rates = [math.nan if point.lr is None else point.lr for point in training]
        panels[LR].plot(iterations, rates, **line)
    if validations:
        validated = [point.iteration for point in validations]
        panels[MIOU].plot(validated, [point.miou for point in validations], **look)


def _style(panel: Axes, title: str) -> None:
    panel.set_ylabel(title)
    panel.grid(True, color='#DDDDDD', linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[['top', 'right']].set_visible(False)
    if title == LOSS:
        panel.set_ylim(bottom=min(0.0, panel.dataLim.ymin))
        if any(line.get_alpha() for line in panel.lines):
            note = 'light: as logged, strong: mean of neighbours'
            panel.text(1, 0.98, note, transform=panel.transAxes, fontsize=8, **_CORNER)
    if title == LR:
        # On a linear axis, AdamW's rate beside that of SGD would look like zero.
        rates = [np.asarray(line.get_ydata(), float) for line in panel.lines]
        peaks = [float(np.fmax.reduce(rate, initial=0.0)) for rate in rates]
        if 0 < 10 * min(peaks) < max(peaks):
            panel.set_yscale('log')
            return
        formatter = ScalarFormatter(useMathText=True)
        formatter.set_powerlimits((-2, 3))
        panel.yaxis.set_major_formatter(formatter)
        panel.set_ylim(bottom=0)
