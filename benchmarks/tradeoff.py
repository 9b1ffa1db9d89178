"""Draw speed against accuracy of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.paper import PAPER, paper_ratio
from benchmarks.report import Report
from benchmarks.table import short_names
from mmseg_repvgg.errors import ConfigError

# From Okabe and Ito's palette for colour-blind readers.
_OURS: dict[str, Any] = dict(color='#0072B2', marker='o')
_OTHERS: dict[str, Any] = dict(color='#D55E00', marker='s')


def draw_tradeoff(report: Report, miou: Mapping[str, float], said_by: str = '') -> Figure:
    """Draw each network in its fastest float32 form.

    The x axis is the speedup over the baseline, with quartiles. If ``miou`` is the
    paper's, its speedups are drawn as hollow marks as well.

    Args:
        report: A timed report.
        miou: mIoU in percent by the name of the network; others are left out.
        said_by: Origin of these numbers, such as ``the paper``; empty for one's own.

    Returns:
        A figure for ``curves.save_figure``, independent of pyplot's state.

    Raises:
        ConfigError: If there is nothing to draw.
    """
    reference = report.reference
    names = report.names
    best = [report.best(name) for name in names if name in miou]
    drawn = [variant for variant in best if variant is not None]
    if reference is None or not drawn:
        raise ConfigError(
            'nothing to draw: no network has a timed float32 form, an mIoU and a '
            f'baseline (mIoU of: {", ".join(miou)})'
        )
    short = dict(zip(names, short_names(names)))
    figure = Figure(figsize=(7.2, 5.2))
    figure.set_layout_engine('constrained')
    axes = figure.subplots()
    hollow = False
    heights = [miou[variant.name] for variant in drawn]
    # The label of a point would cross another point that is less than this above.
    near = 0.1 * (max(heights) - min(heights))
    for variant in drawn:
        name = variant.name
        speed = report.timings.speedup(variant.key, reference.key)
        look = _OURS if variant.backbone == 'RepVGG' else _OTHERS
        error = [[speed.median - speed.low], [speed.high - speed.median]]
        axes.errorbar(
            speed.median, miou[name], xerr=error, markersize=7, capsize=3, **look
        )
        crowded = any(0 < height - miou[name] < near for height in heights)
        axes.annotate(
            f'{short[name]}, {variant.form}',
            (speed.median, miou[name]),
            xytext=(0, -15 if crowded else 7),
            ha='center',
            textcoords='offset points',
            fontsize=8,
        )
        theirs = paper_ratio(name, reference.name)
        if theirs is not None and miou[name] == PAPER[name].miou:
            hollow = True
            axes.plot(theirs, miou[name], fillstyle='none', markersize=7, **look)
            axes.plot(
                [theirs, speed.median], [miou[name]] * 2, ':', c=look['color'], lw=0.8
            )
    whose = f', {said_by}' if said_by else ''
    axes.set_ylabel(f'mIoU (%){whose}')
    axes.set_xlabel(
        f'Speed, times that of {short[reference.name]} ({reference.form}: '
        f'{report.images_per_second(reference):.3g} images/s)'
    )
    axes.grid(True, color='#DDDDDD', linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.margins(x=0.15, y=0.15)
    handles = _legend(hollow, {variant.backbone for variant in drawn})
    figure.legend(
        handles=handles, loc='outside upper left', ncols=3, frameon=False, fontsize=9
    )
    return figure


def _legend(hollow: bool, backbones: set[str]) -> list[Line2D]:
    kinds: list[tuple[str, dict[str, Any], Any]] = []
    if 'RepVGG' in backbones:
        kinds.append(('RepVGG, measured here', _OURS, 'full'))
    if backbones - {'RepVGG'}:
        kinds.append(('others, measured here', _OTHERS, 'full'))
    if hollow:
        grey = dict(color='#555555', marker='o')
        kinds.append(("hollow: the paper's speeds, on a GPU", grey, 'none'))
    return [
        Line2D([], [], label=label, linestyle='', fillstyle=fill, **look)
        for label, look, fill in kinds
    ]
