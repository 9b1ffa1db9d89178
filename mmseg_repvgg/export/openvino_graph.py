"""The convolutions in an exported ``openvino.Model``."""

from collections.abc import Iterator
from typing import Any

from repvgg_runtime.extras import require


def convolutions(model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name of each convolution, its node, and the constant of its weights."""
    for node in model.get_ordered_ops():
        if node.get_type_name() in ('Convolution', 'GroupConvolution'):
            weight = node.input_value(1).get_node()
            while weight.get_input_size():
                weight = weight.input_value(0).get_node()
            yield node.get_friendly_name(), node, weight


def name_and_fold(model: Any) -> dict[str, str]:
    """Fold the constants of a model in place.

    Biases are not constants before, and weights lose their names.

    Returns:
        The name of the module that each convolution was, by the convolution's name.
    """
    names = {
        name: weight.get_friendly_name().removesuffix('.weight')
        for name, _, weight in convolutions(model)
    }
    passes = require('openvino.passes')
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    return names
