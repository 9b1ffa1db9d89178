"""Ranges of the weights and inputs of an int8 file's convolutions, and a plot of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from repvgg_runtime.extras import require

from .openvino_graph import convolutions, name_and_fold

_COLOUR, _LIGHT = '#0072B2', '#56B4E9'


@dataclasses.dataclass(frozen=True)
class LayerRanges:
    """Ranges of a convolution in int8.

    Attributes:
        name: Name of the module.
        inputs: Least and greatest input that int8 represents.
        channels: Largest absolute weight of each output channel, in int8.
        decibels: Power of the weights over that of their rounding, in dB.
    """

    name: str
    inputs: tuple[float, float]
    channels: npt.NDArray[np.float32]
    decibels: float


def read_ranges(float_file: Path, int8_file: Path) -> list[LayerRanges]:
    """Read the ranges of the int8 convolutions of a file.

    Args:
        float_file: The ``.xml`` in float32, to which weights are compared.
        int8_file: The ``.xml`` in int8.
    """
    core = require('openvino').Core()
    plain = core.read_model(float_file)
    names = name_and_fold(plain)
    weights = {name: weight.data for name, _, weight in convolutions(plain)}
    found = []
    for operation, node, weight in convolutions(core.read_model(int8_file)):
        scaled = node.input_value(1).get_node()
        if scaled.get_type_name() != 'Multiply':
            continue  # It is in float32.
        scales = scaled.input_value(1).get_node().data
        before, after = weights[operation], weight.data * scales
        noise = np.square(before - after).sum()
        found.append(
            LayerRanges(
                names[operation].removeprefix('network.'),
                _input_range(node),
                # Grouped convolutions have the groups in front.
                np.abs(after).max((-3, -2, -1)).ravel(),
                float(10 * np.log10(np.square(before).sum() / noise)),
            )
        )
    return found


def draw_ranges(layers: Sequence[LayerRanges]) -> Figure:
    """Draw the ranges of inputs and weights and the rounding of weights, by layer."""
    figure = Figure(figsize=(0.3 * len(layers) + 2, 7.5))
    figure.set_layout_engine('constrained')
    panels = figure.subplots(3, sharex=True)
    at = np.arange(len(layers))
    low, high = np.array([layer.inputs for layer in layers]).T
    panels[0].bar(at, high - low, bottom=low, color=_COLOUR)
    panels[0].axhline(0, color='black', linewidth=0.6)
    panels[0].set_ylabel('Range of\nthe input')
    smallest, median, largest = np.array(
        [np.quantile(layer.channels, (0, 0.5, 1)) for layer in layers]
    ).T
    panels[1].vlines(at, smallest, largest, color=_LIGHT, linewidth=4)
    panels[1].plot(at, median, 'o', color=_COLOUR, markersize=4, label='median')
    panels[1].set_yscale('log')
    panels[1].set_ylabel('Largest weight\nof a channel')
    panels[1].legend(frameon=False)
    panels[2].bar(at, [layer.decibels for layer in layers], color=_COLOUR)
    panels[2].set_ylabel('Weights over\nrounding (dB)')
    panels[2].set_xticks(at, [layer.name for layer in layers], rotation=90, fontsize=7)
    panels[2].set_xlim(-0.7, len(layers) - 0.3)
    for panel in panels:
        panel.grid(True, axis='y', color='#DDDDDD', linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[['top', 'right']].set_visible(False)
    figure.align_ylabels()
    return figure


def _input_range(convolution: Any) -> tuple[float, float]:
    """Return the range of the int8 input; that of a concatenation covers all parts."""
    waiting, bounds = [convolution.input_value(0).get_node()], []
    while waiting:
        node = waiting.pop()
        if node.get_type_name() == 'FakeQuantize':
            # Those of a depthwise convolution differ by channel.
            low, high = (node.input_value(i).get_node().data for i in (3, 4))
            bounds += [float(low.min()), float(high.max())]
        else:
            # Between rounding and convolution, phases are moved and padded.
            parts = node.get_input_size() if node.get_type_name() == 'Concat' else 1
            waiting += [node.input_value(part).get_node() for part in range(parts)]
    return min(bounds), max(bounds)
