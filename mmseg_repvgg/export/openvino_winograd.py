"""Winograd's algorithm in OpenVINO files: their 3x3 convolutions become our operation.

The operation is in ``repvgg_runtime/kernels/openvino_extension.cpp``. It takes and gives
channels last, so that the maps between two of them are never transposed.
"""

from typing import Any

import numpy as np
from torch import nn

from repvgg_runtime.extras import require
from repvgg_runtime.kernels.build import add_openvino_extension

from ..winograd.conv import pack
from ..winograd.engines import pays
from .openvino_graph import convolutions, name_and_fold

OPERATION = 'WinogradConvolution'


def use_winograd(model: Any, network: nn.Module, precision: str = 'highest') -> int:
    """Replace convolutions of an ``openvino.Model`` by Winograd's where that pays.

    A bias and a ReLU that follow a convolution become a part of it.

    Args:
        model: The exported network; changed in place.
        network: The module that was exported. Its convolutions have the names of the
            weights in the model, and decide which pay.
        precision: Precision of their products, see :func:`~mmseg_repvgg.deploy`.

    Returns:
        The number of convolutions that were replaced.

    Raises:
        ConfigError: If the operation cannot be compiled.
        ExtraError: If OpenVINO is not installed.
    """
    ops = require('openvino.opset13')
    factory = require('openvino.utils.node_factory').NodeFactory()
    add_openvino_extension(factory)
    modules: dict[str, Any] = dict(network.named_modules())
    names = name_and_fold(model)
    count = 0
    for name, operation, _ in list(convolutions(model)):
        conv = modules.get(names[name])
        if conv is None or not pays(conv):
            continue
        last, bias = operation, np.zeros(conv.out_channels, np.float32)
        added = _only_reader(last, 'Add')
        if added and (constant := _constant(added, conv.out_channels)) is not None:
            last, bias = added, constant
        relu = _only_reader(last, 'Relu')
        last = relu or last
        packed = pack(conv.weight.detach(), conv.groups).numpy()
        new = factory.create(
            OPERATION,
            [
                _channels_last(ops, operation.input_value(0)),
                ops.constant(packed).output(0),
                ops.constant(bias).output(0),
            ],
            dict(
                out_channels=conv.out_channels,
                groups=conv.groups,
                dilation=conv.dilation[0],
                relu=relu is not None,
                precision=precision,
            ),
        )
        new.set_friendly_name(name)
        last.output(0).replace(_transposed(ops, new.output(0), (0, 3, 1, 2)).output(0))
        count += 1
    model.validate_nodes_and_infer_types()
    return count


def _only_reader(node: Any, kind: str) -> Any | None:
    """Return the node that reads the output of another, if it is one of this kind."""
    readers = list(node.output(0).get_target_inputs())
    if len(readers) == 1 and readers[0].get_node().get_type_name() == kind:
        return readers[0].get_node()
    return None


def _constant(node: Any, size: int) -> np.ndarray | None:
    """Return the constant, of one number for each channel, that a node adds."""
    for value in node.input_values():
        source = value.get_node()
        if source.get_type_name() == 'Constant' and source.get_data().size == size:
            return source.get_data().reshape(-1)
    return None


def _channels_last(ops: Any, value: Any) -> Any:
    """Return maps (B, C, H, W) as (B, H, W, C), which they may have been before."""
    source = value.get_node()
    if source.get_type_name() == 'Transpose':
        before = source.input_value(0)
        if before.get_node().get_type_name() == OPERATION:
            return before
    return _transposed(ops, value, (0, 2, 3, 1)).output(0)


def _transposed(ops: Any, value: Any, order: tuple[int, ...]) -> Any:
    return ops.transpose(value, ops.constant(np.array(order)))
