"""Writers of the three formats, each with the metadata in the file."""

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.utils import digit_version

from repvgg_runtime.backends import METADATA_KEY
from repvgg_runtime.extras import quiet, require
from repvgg_runtime.metadata import Metadata

from ..errors import ConfigError
from .graph import SegmentorGraph
from .openvino_winograd import use_winograd

MIN_OPSET = 17
# Sides of the example where they are left open. A side of 1 would be taken for fixed.
_EXAMPLE = (2, 3, 97, 65)
_SIDES = ('batch', 'channels', 'height', 'width')


def write_onnx(
    graph: SegmentorGraph, path: Path, metadata: Metadata, opset: int | None = None
) -> None:
    """Write an ONNX file, weights included, with its metadata as ``metadata_props``."""
    onnx = require('onnx')
    model = _onnx_model(graph, metadata, opset)
    onnx.helper.set_model_props(model, metadata.dump())
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def write_openvino(
    graph: SegmentorGraph, path: Path, metadata: Metadata, opset: int | None = None
) -> None:
    """Write an OpenVINO IR, ``.xml`` and ``.bin``, in float32, by way of ONNX."""
    openvino = require('openvino')
    if metadata.engine == 'winograd':
        # A norm behind a convolution would be computed by itself.
        graph = cast(SegmentorGraph, fuse_conv_bn(graph))
    data = _onnx_model(graph, metadata, opset).SerializeToString()
    model = openvino.Core().read_model(data)
    if metadata.engine == 'winograd':
        use_winograd(model, graph, metadata.precision)
    save_openvino(model, path, metadata)


def save_openvino(model: Any, path: Path, metadata: Metadata) -> None:
    """Write an ``openvino.Model`` as it is, with its metadata as ``rt_info``."""
    for name, value in metadata.dump().items():
        model.set_rt_info(value, [METADATA_KEY, name])
    try:
        require('openvino').save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        # The message says only that a stream failed.
        raise OSError('OpenVINO could not write it, as on a full disk') from error


def write_torchscript(
    graph: SegmentorGraph, path: Path, metadata: Metadata, opset: int | None = None
) -> None:
    """Trace a TorchScript file, which torch has deprecated; metadata is an extra file."""
    if opset is not None:
        raise ConfigError('TorchScript has no opset. Leave out --opset')
    extra = {METADATA_KEY: json.dumps(metadata.dump())}
    buffer = io.BytesIO()
    with quiet():
        traced = torch.jit.trace(graph, _example(metadata), check_trace=False)
        torch.jit.save(traced, buffer, _extra_files=extra)
    path.write_bytes(buffer.getvalue())


FORMATS: dict[str, tuple[str, Callable[..., None]]] = {
    'onnx': ('.onnx', write_onnx),
    'openvino': ('.xml', write_openvino),
    'torchscript': ('.pt', write_torchscript),
}
"""Suffix of each format, and the function that writes a graph to a path.

It raises a ConfigError if torch cannot export the graph with open sizes or at the opset,
an ExtraError if a package is missing, and an OSError if the file cannot be written.
"""


def _onnx_model(graph: SegmentorGraph, metadata: Metadata, opset: int | None) -> Any:
    sides = {i: name for i, name in enumerate(_SIDES) if metadata.shape[i] is None}
    with quiet(logging.getLogger('torch.onnx'), logging.getLogger('onnxscript')):
        try:
            model = _run_exporter(graph, metadata, opset, sides)
        except ImportError:
            raise
        except Exception as error:
            # The exporter's own message lists its steps; the cause says what failed.
            reason = str(error.__cause__ or error).strip().splitlines() or [repr(error)]
            how = ' with open sizes' * bool(sides)
            how += f' at opset {opset}' if opset else ''
            raise ConfigError(
                f'torch cannot export this model{how}: {reason[0]}'
                + '. Export with --size' * bool(sides)
            ) from error
    (written,) = (entry.version for entry in model.opset_import if not entry.domain)
    if opset not in (None, written):
        raise ConfigError(
            f'torch wrote opset {written}, not {opset}: give a smaller --opset'
        )
    found = model.graph.input[0].type.tensor_type.shape.dim
    fixed = [name for i, name in sides.items() if found[i].HasField('dim_value')]
    if fixed:
        raise ConfigError(
            f'torch cannot leave the {" and ".join(fixed)} of this model open, because a '
            'layer of it, such as its decode head, computes with a number. Export with '
            '--size'
        )
    # The exporter notes the source file of each operator, with its path.
    for part in (*model.graph.node, *model.graph.value_info, model.graph):
        part.ClearField('metadata_props')
        part.ClearField('doc_string')
    return model


def _run_exporter(
    graph: SegmentorGraph, metadata: Metadata, opset: int | None, sides: dict[int, str]
) -> Any:
    """Return the ONNX model that torch exports, before any check of it."""
    onnx = require('onnx')
    names: Any = dict(input_names=['image'], output_names=[metadata.output])
    # The exporter on torch.export is complete from torch 2.6 on.
    if digit_version(torch.__version__) >= digit_version('2.6'):
        require('onnxscript')
        dims = {
            i: torch.export.Dim(name, min=1, max=1 << 15) for i, name in sides.items()
        }
        program: Any = torch.onnx.export(
            graph,
            _example(metadata),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            dynamic_shapes=(dims,) if dims else None,
            **names,
        )
        return program.model_proto
    buffer: Any = io.BytesIO()
    torch.onnx.export(
        graph,
        _example(metadata),
        buffer,
        opset_version=opset or MIN_OPSET,
        dynamic_axes={'image': sides},
        # Other modes fold norms into convs, whose weights then lose their names.
        training=torch.onnx.TrainingMode.PRESERVE,
        **names,
    )
    return onnx.load_from_string(buffer.getvalue())


def _example(metadata: Metadata) -> tuple[torch.Tensor]:
    shape = [want or usual for want, usual in zip(metadata.shape, _EXAMPLE)]
    return (torch.zeros(shape, dtype=getattr(torch, metadata.dtype)),)
