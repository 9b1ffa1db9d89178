"""Quantization of the convolutions of an OpenVINO graph to int8 with NNCF.

NNCF rounds their inputs and weights to 8 bits. Pyramid pooling and upsampling stay in
float32: they take no time, and averages and blends would be rounded twice.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from repvgg_runtime.backends import Array
from repvgg_runtime.extras import quiet, require
from repvgg_runtime.signal_stack import keep_signal_stack

from .gptq import FIRST_STEPS, STEPS
from .openvino_graph import convolutions, name_and_fold
from .real_images import CalibrationImages, Validation

METHODS = ('gptq', 'nncf')
INT8 = ('i8', 'u8')
"""OpenVINO's names of the types of 8 bits."""
# Number of validation images that rank the layers: those on which most is lost.
_RANKING_IMAGES = 30


@keep_signal_stack()
def quantize_graph(
    file: Path,
    calibration: list[Array] | CalibrationImages,
    method: str,
    limit: tuple[float, Validation] | None = None,
) -> tuple[Any, dict[str, str], list[str]]:
    """Quantize the convolutions of a file: all, or as many as a drop in mIoU allows.

    To meet a limit, NNCF ranks the layers by their cost and keeps one after the other in
    float32. It may fail to meet it.

    Args:
        file: A file in float32 that OpenVINO reads; with ``'gptq'`` one whose weights
            are rounded already.
        calibration: Inputs of the file, on which ranges are measured.
        method: One of ``METHODS``.
        limit: Points of mIoU that may be lost, and the images to measure it on.

    Returns:
        The ``openvino.Model``, the names of the layers in int8 by their operation in it,
        and the names of those in float32.
    """
    openvino = require('openvino')
    nncf = require('nncf', 'quantize')
    estimators = require('nncf.quantization.range_estimator', 'quantize')
    model = openvino.Core().read_model(file)
    # NNCF finds a bias only if it is a constant.
    names = {
        operation: name.removeprefix('network.')
        for operation, name in name_and_fold(model).items()
    }
    # Ranges from the least to the greatest value: cutting them off costs mIoU.
    fix = nncf.OverflowFix
    advanced = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=estimators.RangeEstimatorParametersSet.MINMAX,
        overflow_fix=fix.DISABLE if method == 'gptq' else fix.FIRST_LAYER,
        # NNCF would estimate the shift by rounding, worse than what GPTQ leaves of it.
        disable_bias_correction=method == 'gptq',
    )
    options = dict(
        calibration_dataset=nncf.Dataset(calibration),
        subset_size=len(calibration),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(types=['MatMul', 'Interpolate'], validate=False),
    )
    with quiet(logging.getLogger('nncf')):
        if limit is None:
            quantized = nncf.quantize(model, advanced_parameters=advanced, **options)
        else:
            max_drop, validation = limit
            quantized = nncf.quantize_with_accuracy_control(
                model,
                validation_dataset=nncf.Dataset(range(len(validation))),
                validation_fn=lambda compiled, indices: validation.score(
                    lambda images: compiled(images)[0], indices
                ),
                max_drop=max_drop,
                drop_type=nncf.DropType.ABSOLUTE,
                advanced_quantization_parameters=advanced,
                advanced_accuracy_restorer_parameters=(
                    nncf.AdvancedAccuracyRestorerParameters(
                        ranking_subset_size=min(_RANKING_IMAGES, len(validation))
                    )
                ),
                **options,
            )
    if method == 'gptq':
        _restore_first_weights(quantized)
    layers = {
        operation: names[operation]
        for operation, _, weight in convolutions(quantized)
        if weight.get_element_type().get_type_name() in INT8
    }
    kept = [name for operation, name in names.items() if operation not in layers]
    return quantized, layers, kept


def _restore_first_weights(model: Any) -> None:
    """Restore the 7-bit steps of the first convolution's weights, which NNCF replaced."""
    (_, first, weight), *_ = convolutions(model)
    scaled = first.input_value(1).get_node()
    if scaled.get_type_name() != 'Multiply':
        return  # It was kept in float32.
    constant = require('openvino').op.Constant
    scales = scaled.input_value(1).get_node().data * np.float32(STEPS / FIRST_STEPS)
    levels = np.round(weight.data * (FIRST_STEPS / STEPS)).astype(np.int8)
    convert = scaled.input_value(0).get_node()
    convert.input(0).replace_source_output(constant(levels).output(0))
    scaled.input(1).replace_source_output(constant(scales).output(0))
