"""Draw loss, learning rate and mIoU of trainings from mmengine's logs.

mmengine's LoggerHook writes a JSON object a line to ``TIMESTAMP/vis_data/scalars.json``
in a work dir.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from repvgg_runtime.atomic_write import atomic_path
from repvgg_runtime.special_files import refuse_special_file

from ..errors import ConfigError, LogError, WriteError

FORMATS = ('png', 'svg', 'pdf')
LOSS, LR, MIOU = 'Training loss', 'Learning rate', 'Validation mIoU (%)'

_FILE = Path('vis_data', 'scalars.json')
# Okabe and Ito's palette for colour-blind readers, without its yellow, which is too light
# on paper. Dashes and marks distinguish the lines in grey, and where they overlap.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#000000', '#56B4E9', '#E69F00')
_DASHES = ('-', (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_MARKS = ('o', 's', '^', 'D', 'v', 'P')


@dataclass(frozen=True)
class TrainingLog:
    """A training, in the order in which it was logged.

    Attributes:
        name: Its name in a legend.
        points: The iterations done and the value of each logged :data:`LOSS`, :data:`LR`
            and :data:`MIOU`.
    """

    name: str
    points: dict[str, list[tuple[int, float]]]


def read_log(path: str | Path) -> TrainingLog:
    """Read the log of a training that has ended, goes on, or was killed.

    Args:
        path: A work dir, the folder ``TIMESTAMP`` of a run, or a ``scalars.json``. The
            runs of a work dir are joined: from its first iteration on, a resumed run
            replaces the earlier ones.

    Raises:
        LogError: If there is no log, or no training in it.
    """
    path = Path(path)
    if (path / _FILE).is_file():
        files, name = [path / _FILE], '/'.join(path.resolve().parts[-2:])
    elif path.is_dir():
        files, name = sorted(path.glob(f'*/{_FILE}')), path.resolve().name
    else:
        files, name = [path], path.stem
    points: dict[str, list[tuple[int, float]]] = {LOSS: [], LR: [], MIOU: []}
    for run in map(_read_file, files):
        # A test, or a training that was killed early, has logged no training.
        if run[LOSS]:
            first = run[LOSS][0][0]
            for key, kept in points.items():
                points[key] = [point for point in kept if point[0] < first] + run[key]
    if not points[LOSS]:
        raise LogError(
            f'{path} has no log of a training: expected a scalars.json with "loss" and '
            '"iter", or a folder with vis_data/scalars.json or */vis_data/scalars.json'
        )
    return TrainingLog(name, points)


def _read_file(path: Path) -> dict[str, list[tuple[int, float]]]:
    try:
        refuse_special_file(path)
        lines = path.read_text(errors='replace').splitlines(keepends=True)
    except OSError as error:
        raise LogError(f'{path} cannot be read: {error.strerror}') from error
    points: dict[str, list[tuple[int, float]]] = {LOSS: [], LR: [], MIOU: []}
    last = 0
    for number, line in enumerate(lines, 1):
        # A killed run may leave its last line unfinished.
        if number == len(lines) and not line.endswith('\n'):
            break
        try:
            # An evaluator may put a prefix before its metrics.
            logged = {key.rsplit('/')[-1]: v for key, v in json.loads(line).items()}
            step = int(logged.get('step', logged.get('iter', 0)))
            if 'loss' in logged:
                last = step
            # The step of a validation may be its epoch, which is smaller.
            last = max(last, step) if 'mIoU' in logged else last
            for name, key in {LOSS: 'loss', LR: 'lr', MIOU: 'mIoU'}.items():
                if key in logged:
                    points[name].append((last, float(logged[key])))
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
            raise LogError(
                f'{path} is not a scalars.json of mmengine: line {number} is not an '
                f'object of logged numbers ({error})'
            ) from error
    return points


def draw_curves(logs: Sequence[TrainingLog], window: int | None = None) -> Figure:
    """Draw trainings over each other, with a panel for each quantity that was logged.

    The logged losses are a light line, their centred mean a strong one.

    Args:
        logs: One or more, told apart by their names.
        window: Number of logged lines in the mean of the loss; by default a tenth of
            them, at least 5; 1 for no mean.

    Returns:
        A figure for :func:`save_figure`, independent of pyplot's state.

    Raises:
        ConfigError: If ``window`` is less than 1.
    """
    if window is not None and window < 1:
        raise ConfigError(f'window must be at least 1, but got {window}')
    titles = [t for t in (LOSS, LR, MIOU) if any(log.points[t] for log in logs)]
    figure = Figure(figsize=(7.2, 2.1 * len(titles) + 0.5 + 0.2 * len(logs)))
    figure.set_layout_engine('constrained', h_pad=0.06)
    panels = figure.subplots(len(titles), sharex=True, squeeze=False)[:, 0]
    handles = []
    for index, log in enumerate(logs):
        look: dict[str, Any] = dict(
            color=_COLOURS[index % len(_COLOURS)],
            linestyle=_DASHES[index % len(_DASHES)],
            marker=_MARKS[index % len(_MARKS)],
            markersize=4.5,
            linewidth=1.6,
        )
        for panel, title in zip(panels, titles):
            if log.points[title]:
                _draw(panel, title, np.array(log.points[title]), window, look)
        label = log.name
        if log.points[MIOU]:
            at, best = max(log.points[MIOU], key=lambda point: point[1])
            label += f'  (best mIoU {best:.2f} % at iteration {at:,})'
        handles.append(Line2D([], [], label=label, **look))
    for panel, title in zip(panels, titles):
        panel.set_ylabel(title)
        panel.grid(True, color='#DDDDDD', linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[['top', 'right']].set_visible(False)
        # On a linear axis, AdamW's rate beside that of SGD would look like zero.
        peaks = [max(map(float, line.get_ydata())) for line in panel.lines]
        if title == LR and 0 < 10 * min(peaks) < max(peaks):
            panel.set_yscale('log')
        elif title != MIOU:
            panel.ticklabel_format(axis='y', scilimits=(-2, 3), useMathText=True)
            panel.set_ylim(bottom=min(0.0, panel.dataLim.ymin))
    panels[-1].set_xlim(left=0)
    panels[-1].set_xlabel('Iteration')
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    panels[-1].xaxis.set_major_formatter(StrMethodFormatter('{x:,.10g}'))
    legend: dict[str, Any] = dict(frameon=False, handlelength=3, fontsize=9)
    figure.legend(handles=handles, loc='outside upper left', **legend)
    figure.align_ylabels()
    return figure


def _draw(
    panel: Axes, title: str, points: np.ndarray, window: int | None, look: dict[str, Any]
) -> None:
    iterations, values = points.T
    # A single point would be invisible without its mark.
    if title != MIOU and len(values) > 1:
        look = {**look, 'marker': ''}
    if title == LOSS:
        window = window or max(5, len(values) // 10)
        if window > 2:
            panel.plot(iterations, values, c=look['color'], alpha=0.35, linewidth=0.8)
        values = smooth(values, window)
    panel.plot(iterations, values, **look)


def smooth(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Average each value with its neighbours, ignoring values that are not finite.

    Near an end the window shrinks on both sides alike, so that slopes are kept.
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


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically to a file whose suffix is one of :data:`FORMATS`.

    Raises:
        WriteError: If the suffix is another, or the file cannot be written.
    """
    if Path(path).suffix[1:].lower() not in FORMATS:
        raise WriteError(
            f'{path} cannot be drawn: its suffix must be one of '
            f'{", ".join(f".{name}" for name in FORMATS)}'
        )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=200)
