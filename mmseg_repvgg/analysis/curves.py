"""Draw loss, learning rate and mIoU of trainings from mmengine's logs.

mmengine's LoggerHook writes a JSON object a line to ``TIMESTAMP/vis_data/scalars.json``
in a work dir.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from repvgg_runtime.atomic_write import atomic_path
from repvgg_runtime.special_files import refuse_special_file

from ..errors import ConfigError, LogError, WriteError

FORMATS = ('png', 'svg', 'pdf')
LOSS, LR, MIOU = 'Training loss', 'Learning rate', 'Validation mIoU (%)'
_KEYS = {LOSS: 'loss', LR: 'lr', MIOU: 'mIoU'}

_FILE = Path('vis_data', 'scalars.json')
# Okabe and Ito's palette for colour-blind readers, without its yellow, which is too light
# on paper. Dashes and marks distinguish the lines in grey, and where they overlap.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#000000', '#56B4E9', '#E69F00')
_DASHES = ('-', (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_MARKS = ('o', 's', '^', 'D', 'v', 'P')


Points = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class TrainingLog:
    """Name of a training and its points: iterations done and value, by panel title."""

    name: str
    points: Points


def read_log(path: str | Path) -> TrainingLog:
    """Read the log of a training that has ended, goes on, or was killed.

    The path is a work dir, the folder ``TIMESTAMP`` of a run, or a ``scalars.json``. The
    runs of a work dir are joined: from its first iteration on, a resumed run replaces the
    earlier ones.

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
    points: Points = {title: [] for title in _KEYS}
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


def _read_file(path: Path) -> Points:
    try:
        refuse_special_file(path)
        lines = path.read_text(errors='replace').splitlines(keepends=True)
    except OSError as error:
        raise LogError(f'{path} cannot be read: {error.strerror}') from error
    points: Points = {title: [] for title in _KEYS}
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
            for title, key in _KEYS.items():
                if key in logged:
                    points[title].append((last, float(logged[key])))
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
            raise LogError(
                f'{path} is not a scalars.json of mmengine: line {number} is not an '
                f'object of logged numbers ({error})'
            ) from error
    return points


def draw_curves(logs: Sequence[TrainingLog], window: int | None = None) -> Figure:
    """Draw trainings over each other, with a panel for each quantity that was logged.

    The logged losses are a light line, their centred mean a strong one. ``window`` is the
    number of logged lines in that mean: by default a tenth of them, at least 5; 1 for no
    mean.

    Raises:
        ConfigError: If ``window`` is less than 1.
    """
    if window is not None and window < 1:
        raise ConfigError(f'window must be at least 1, but got {window}')
    titles = [t for t in _KEYS if any(log.points[t] for log in logs)]
    figure = Figure(figsize=(7.2, 2.1 * len(titles) + 0.5 + 0.2 * len(logs)))
    figure.set_layout_engine('constrained', h_pad=0.06)
    panels = figure.subplots(len(titles), sharex=True, squeeze=False)[:, 0]
    handles = []
    looks = zip(cycle(_COLOURS), cycle(_DASHES), cycle(_MARKS))
    for log, (color, dashes, mark) in zip(logs, looks):
        look: dict[str, Any] = dict(color=color, linestyle=dashes, linewidth=1.6)
        marked = dict(look, marker=mark, markersize=4.5)
        for panel, title in zip(panels, titles):
            if not log.points[title]:
                continue
            iterations, values = np.array(log.points[title]).T
            if title == LOSS:
                width = window or max(5, len(values) // 10)
                if width > 2:
                    panel.plot(iterations, values, c=color, alpha=0.35, linewidth=0.8)
                values = smooth(values, width)
            # A single point would be invisible without its mark.
            few = title == MIOU or len(values) == 1
            panel.plot(iterations, values, **(marked if few else look))
        label = log.name
        if log.points[MIOU]:
            at, best = max(log.points[MIOU], key=lambda point: point[1])
            label += f'  (best mIoU {best:.2f} % at iteration {at:,})'
        handles.append(Line2D([], [], label=label, **marked))
    for panel, title in zip(panels, titles):
        panel.set_ylabel(title)
        panel.grid(True, color='#DDDDDD', linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[['top', 'right']].set_visible(False)
        # On a linear axis, AdamW's rate beside that of SGD would look like zero.
        finite = [y[np.isfinite(y)] for y in (line.get_ydata() for line in panel.lines)]
        peaks = [max(map(float, values), default=0.0) for values in finite]
        if title == LR and 0 < 10 * min(peaks) < max(peaks):
            panel.set_yscale('log')
        elif title != MIOU:
            panel.ticklabel_format(axis='y', scilimits=(-2, 3), useMathText=True)
            panel.set_ylim(bottom=min(0.0, *(y.min() for y in finite if len(y)), 0.0))
    panels[-1].set_xlim(left=0)
    panels[-1].set_xlabel('Iteration')
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    panels[-1].xaxis.set_major_formatter(StrMethodFormatter('{x:,.10g}'))
    legend: Any = dict(loc='outside upper left', handlelength=3, fontsize=9)
    figure.legend(handles=handles, frameon=False, **legend)
    figure.align_ylabels()
    return figure


def smooth(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Average each value with its neighbours, ignoring values that are not finite.

    Near an end the window shrinks on both sides alike, so that slopes are kept.
    """
    valid = np.ma.masked_invalid(np.asarray(values, dtype=float))
    means = np.full(len(valid), np.nan)
    for i in range(len(valid)):
        reach = min((window - 1) // 2, i, len(valid) - 1 - i)
        means[i] = np.ma.filled(valid[i - reach : i + reach + 1].mean(), np.nan)
    return means


def check_format(path: str | Path) -> None:
    """Check that the suffix of a figure's file is one of :data:`FORMATS`.

    Raises:
        WriteError: If it is another.
    """
    if Path(path).suffix[1:].lower() not in FORMATS:
        suffixes = ', '.join(f'.{name}' for name in FORMATS)
        raise WriteError(f'{path} cannot be drawn: its suffix must be one of {suffixes}')


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically to a file whose suffix is one of :data:`FORMATS`.

    Raises:
        WriteError: If the suffix is another, or the file cannot be written.
    """
    check_format(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=200)
