"""Curves of trainings: loss, learning rate and mIoU over iterations or time."""

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

from ..atomic_write import write_atomically
from ..errors import LogError, WriteError
from .logs import Point, TrainingLog

FORMATS = ('png', 'svg', 'pdf')
LOSS, LR, MIOU = 'Training loss', 'Learning rate', 'Validation mIoU (%)'

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow that
# is too light on paper. Dashes and marks tell them apart in grey, and where they overlap.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#000000', '#56B4E9', '#E69F00')
_DASHES = ('-', (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_MARKS = ('o', 's', '^', 'D', 'v', 'P')
_CORNER: dict[str, Any] = dict(ha='right', va='top', color='#555555')
_UNITS = (('h', 3600), ('min', 60), ('s', 1))


def draw_curves(
    logs: Sequence[TrainingLog], *, over: str = 'iteration', window: int | None = None
) -> Figure:
    """Draw trainings over each other, a panel a quantity.

    What none of them has logged has no panel. The logged losses are a light line, their
    centred mean a strong one.

    Args:
        logs: One or more; they are told apart by their names.
        over: 'iteration', or 'time' for that since a log began, with validations.
        window: Logged lines in the mean of the loss; by default a tenth of them, at
            least 5; 1 for no mean.

    Returns:
        A figure of no global state, for :func:`save_figure`.

    Raises:
        LogError: If ``over`` is 'time' and a log does not tell.
    """
    if over not in ('iteration', 'time'):
        raise ValueError(f"over must be 'iteration' or 'time', but got {over!r}")
    if window is not None and window < 1:
        raise ValueError(f'window must be at least 1, but got {window!r}')
    unit, scale = ('', 1.0) if over == 'iteration' else _unit(logs)
    panels = [LOSS]
    if any(point.lr is not None for log in logs for point in log.training):
        panels.append(LR)
    if any(log.validations for log in logs):
        panels.append(MIOU)
    figure = Figure(figsize=(7.2, 2.1 * len(panels) + 0.5 + 0.2 * len(logs)))
    figure.set_layout_engine('constrained', h_pad=0.06)
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    handles = []
    for index, log in enumerate(logs):
        look: dict[str, Any] = dict(
            color=_COLOURS[index % len(_COLOURS)],
            linestyle=_DASHES[index % len(_DASHES)],
            marker=_MARKS[index % len(_MARKS)],
            markersize=4.5,
            linewidth=1.6,
        )
        _draw(dict(zip(panels, axes)), log, over, scale, window, look)
        handles.append(Line2D([], [], label=_label(log), **look))
    for panel, title in zip(axes, panels):
        _style(panel, title)
    axes[-1].set_xlim(left=0)
    axes[-1].set_xlabel('Iteration' if over == 'iteration' else f'Elapsed time ({unit})')
    axes[-1].xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:,.10g}'))
    figure.legend(
        handles=handles,
        loc='outside upper left',
        frameon=False,
        handlelength=3,
        fontsize=9,
    )
    figure.align_ylabels()
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure so that the file is there whole or not at all.

    Args:
        figure: From :func:`draw_curves`.
        path: The file; its suffix, png, svg or pdf, says what is written. Its folder is
            made where it is missing.

    Raises:
        WriteError: If the suffix is another, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise WriteError(
            f'{path} cannot be drawn: the name has to end in one of '
            f'{", ".join(f".{name}" for name in FORMATS)}'
        )
    drawn = io.BytesIO()
    figure.savefig(drawn, format=kind, dpi=200)
    write_atomically(path, drawn.getvalue())


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Average each value with its neighbours.

    Near an end the window shrinks, the same to both sides: a curve that falls there is
    not bent. What is not finite is left out of the means.

    Args:
        values: In order.
        window: How many values, itself included; of an even number one less.

    Returns:
        As many values; NaN where a window holds nothing finite.
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
    panels: dict[str, Axes],
    log: TrainingLog,
    over: str,
    scale: float,
    window: int | None,
    look: dict[str, Any],
) -> None:
    def x(points: Sequence[Point]) -> list[float]:
        # NaN, where a running log has no time yet, is not drawn.
        return [
            point.iteration
            if over == 'iteration'
            else (math.nan if point.seconds is None else point.seconds / scale)
            for point in points
        ]

    training, validations = log.training, log.validations
    losses = [point.loss for point in training]
    window = window or max(5, len(losses) // 10)
    # A lone point would not show.
    line = {**look, 'marker': ''} if len(training) > 1 else look
    if window > 2:
        panels[LOSS].plot(x(training), losses, c=look['color'], alpha=0.35, linewidth=0.8)
    panels[LOSS].plot(x(training), smooth(losses, window), **line)
    if LR in panels:
        rates = [math.nan if point.lr is None else point.lr for point in training]
        panels[LR].plot(x(training), rates, **line)
    if validations:
        panels[MIOU].plot(x(validations), [point.miou for point in validations], **look)


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
        # Each at its highest; of SGD and AdamW, one would lie flat on the axis.
        rates = [np.asarray(line.get_ydata(), float) for line in panel.lines]
        peaks = [float(np.fmax.reduce(rate, initial=0.0)) for rate in rates]
        if 0 < 10 * min(peaks) < max(peaks):
            panel.set_yscale('log')
            return
        formatter = ScalarFormatter(useMathText=True)
        formatter.set_powerlimits((-2, 3))
        panel.yaxis.set_major_formatter(formatter)
        panel.set_ylim(bottom=0)


def _unit(logs: Sequence[TrainingLog]) -> tuple[str, float]:
    """The unit for the longest of the trainings, and its seconds."""
    longest = 0.0
    for log in logs:
        seconds = [p.seconds for p in log.points if p.seconds is not None]
        if not seconds:
            raise LogError(
                f'{log.name} does not tell the time of day: for --x time give the text '
                'log TIMESTAMP.log, or the folder that it is in'
            )
        longest = max(longest, *seconds)
    return next((u, s) for u, s in _UNITS if longest >= 2 * s or s == 1)
