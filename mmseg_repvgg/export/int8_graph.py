"""Bringing an OpenVINO graph to int8 with NNCF.

NNCF puts rounding to 8 bits around the convolutions, with ranges that it sees on images
of the training set. The pyramid's pooling and every scaling up stay in float32: they
take no time, and what they average or blend would be rounded twice.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from .backends import OpenVINOBackend
from .extras import require
from .real_images import CalibrationImages, StandIn, Validation, quiet
from .signal_stack import keep_signal_stack

_CONVOLUTIONS = ('Convolution', 'GroupConvolution')
# Of the images of validation, how many rank the layers: those on which most is lost.
_RANKING_IMAGES = 30


@dataclasses.dataclass(frozen=True)
class Int8Graph:
    """An OpenVINO graph in int8.

    Attributes:
        model: The graph.
        layers: Names of the layers in int8, by their operation in the graph.
        kept: Names of those in float32.
    """

    model: Any
    layers: dict[str, str]
    kept: list[str]


@keep_signal_stack()
def with_all_layers(before: OpenVINOBackend, calibration: CalibrationImages) -> Int8Graph:
    """Bring every convolution of a file to int8, whatever it costs.

    Args:
        before: The file in float32.
        calibration: What it takes, as it will be used.

    Raises:
        ExtraError: If NNCF is missing.
    """
    nncf = require('nncf', 'quantize')
    model, names = _read(before)
    with quiet(logging.getLogger('nncf')):
        quantized = nncf.quantize(
            model,
            advanced_parameters=_whole_ranges(nncf),
            **_options(nncf, calibration),
        )
    return _candidate(quantized, names)


@keep_signal_stack()
def within_drop(
    before: OpenVINOBackend,
    calibration: CalibrationImages,
    validation: Validation,
    max_drop: float,
) -> Int8Graph:
    """Have NNCF rank the layers by what each costs, and put back one after the other.

    Args:
        before: The file in float32.
        calibration: What it takes, as it will be used.
        validation: What scores it.
        max_drop: By how many points of mIoU it may be worse.

    Returns:
        What NNCF ends with, which need not be within the drop.

    Raises:
        ExtraError: If NNCF is missing.
    """
    nncf = require('nncf', 'quantize')

    def score(compiled: Any, indices: Iterable[int]) -> tuple[float, list[float]]:
        return validation.score(
            StandIn(before, lambda images: compiled(images)[0]), indices
        )

    model, names = _read(before)
    with quiet(logging.getLogger('nncf')):
        quantized = nncf.quantize_with_accuracy_control(
            model,
            validation_dataset=nncf.Dataset(range(len(validation))),
            validation_fn=score,
            max_drop=max_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            advanced_quantization_parameters=_whole_ranges(nncf),
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                ranking_subset_size=min(_RANKING_IMAGES, len(validation))
            ),
            **_options(nncf, calibration),
        )
    return _candidate(quantized, names)


def _options(nncf: Any, calibration: CalibrationImages) -> dict[str, Any]:
    """What both ways have in common."""
    return dict(
        calibration_dataset=nncf.Dataset(calibration),
        subset_size=len(calibration),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(types=['MatMul', 'Interpolate'], validate=False),
    )


def _whole_ranges(nncf: Any) -> Any:
    """From the least to the most that was seen: cutting off there cost mIoU."""
    estimators = require('nncf.quantization.range_estimator', 'quantize')
    return nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=estimators.RangeEstimatorParametersSet.MINMAX
    )


def _read(backend: OpenVINOBackend) -> tuple[Any, dict[str, str]]:
    """Read the graph as NNCF needs it, and its layers' names by operation.

    NNCF knows a bias only if that is a constant. But what is folded loses its name.
    """
    openvino, passes = require('openvino'), require('openvino.passes')
    model = openvino.Core().read_model(backend.path)
    names = {op: _name(op, weight) for op, weight in _weights(model)}
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    return model, names


def _candidate(quantized: Any, names: dict[str, str]) -> Int8Graph:
    layers = {
        op: names[op]
        for op, weight in _weights(quantized)
        if weight.get_element_type().get_type_name() in ('i8', 'u8')
    }
    return Int8Graph(
        quantized, layers, [name for op, name in names.items() if op not in layers]
    )


def _weights(model: Any) -> Iterator[tuple[str, Any]]:
    """Each convolution's name, and the constant at the end of its weights."""
    for operation in model.get_ordered_ops():
        if operation.get_type_name() in _CONVOLUTIONS:
            node = operation.input_value(1).get_node()
            while node.get_input_size():
                node = node.input_value(0).get_node()
            yield operation.get_friendly_name(), node


def _name(operation: str, weight: Any) -> str:
    """A layer's name in the model: exporters keep the names of parameters."""
    name = weight.get_friendly_name()
    if not name.startswith('network.'):
        return operation
    name = name.removeprefix('network.').removesuffix('.weight')
    # Exported, the pyramid's branches are in a module of their own.
    return name.replace('psp_modules.branches.', 'psp_modules.')
