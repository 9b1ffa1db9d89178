"""Quantization of an OpenVINO graph to int8 with NNCF.

NNCF puts rounding to 8 bits around the convolutions, with ranges measured on images of
the training set. Pyramid pooling and upsampling stay in float32: they take no time, and
what they average or blend would be rounded twice.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

from repvgg_runtime.backends import OpenVINOBackend
from repvgg_runtime.extras import quiet, require
from repvgg_runtime.signal_stack import keep_signal_stack

from .real_images import CalibrationImages, Validation

_CONVOLUTIONS = ('Convolution', 'GroupConvolution')
# Number of validation images that rank the layers: those on which most is lost.
_RANKING_IMAGES = 30


@dataclasses.dataclass(frozen=True)
class Int8Graph:
    """OpenVINO graph in int8.

    Attributes:
        model: The graph.
        layers: Names of the layers in int8, by their operation in the graph.
        kept: Names of those in float32.
    """

    model: Any
    layers: dict[str, str]
    kept: list[str]


@keep_signal_stack()
def quantize_graph(
    before: OpenVINOBackend,
    calibration: CalibrationImages,
    validation: Validation | None = None,
    max_drop: float = 0,
) -> Int8Graph:
    """Quantize the convolutions of a file: all, or as many as a drop in mIoU allows.

    Args:
        before: The file in float32.
        calibration: Images to measure ranges on.
        validation: Scores the graphs. NNCF then ranks the layers by what each costs, and
            keeps one after the other in float32. Without it, all layers are in int8.
        max_drop: Points of mIoU that may be lost; the result need not achieve it.

    Raises:
        ExtraError: If NNCF is missing.
    """
    nncf = require('nncf', 'quantize')
    estimators = require('nncf.quantization.range_estimator', 'quantize')
    # Ranges from the least to the greatest value: cutting them off costs mIoU.
    ranges = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=estimators.RangeEstimatorParametersSet.MINMAX
    )
    options = dict(
        calibration_dataset=nncf.Dataset(calibration),
        subset_size=len(calibration),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(types=['MatMul', 'Interpolate'], validate=False),
    )
    model, names = _read(before)
    with quiet(logging.getLogger('nncf')):
        if validation is None:
            quantized = nncf.quantize(model, advanced_parameters=ranges, **options)
        else:
            quantized = nncf.quantize_with_accuracy_control(
                model,
                validation_dataset=nncf.Dataset(range(len(validation))),
                validation_fn=lambda compiled, indices: validation.score(
                    lambda images: compiled(images)[0], indices
                ),
                max_drop=max_drop,
                drop_type=nncf.DropType.ABSOLUTE,
                advanced_quantization_parameters=ranges,
                advanced_accuracy_restorer_parameters=(
                    nncf.AdvancedAccuracyRestorerParameters(
                        ranking_subset_size=min(_RANKING_IMAGES, len(validation))
                    )
                ),
                **options,
            )
    layers = {
        op: names[op]
        for op, weight in _weights(quantized)
        if weight.get_element_type().get_type_name() in ('i8', 'u8')
    }
    kept = [name for op, name in names.items() if op not in layers]
    return Int8Graph(quantized, layers, kept)


def _read(backend: OpenVINOBackend) -> tuple[Any, dict[str, str]]:
    """Read the graph with constants folded, and the names of its layers by operation.

    NNCF finds a bias only if it is a constant, but folded weights lose their names.
    """
    openvino, passes = require('openvino'), require('openvino.passes')
    model = openvino.Core().read_model(backend.path)
    names = {op: _layer_name(op, weight) for op, weight in _weights(model)}
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    return model, names


def _weights(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name of each convolution and the constant that its weights come from."""
    for operation in model.get_ordered_ops():
        if operation.get_type_name() in _CONVOLUTIONS:
            node = operation.input_value(1).get_node()
            while node.get_input_size():
                node = node.input_value(0).get_node()
            yield operation.get_friendly_name(), node


def _layer_name(operation: str, weight: Any) -> str:
    """Return the name of a layer in the model: exporters keep names of parameters."""
    name = weight.get_friendly_name()
    if not name.startswith('network.'):
        return operation
    return name.removeprefix('network.').removesuffix('.weight')
