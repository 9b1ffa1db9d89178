"""Writing a graph in each format, with its metadata, and checking what was written."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.utils import digit_version

from ..errors import ConfigError, ExtraError
from .backends import METADATA_KEY
from .extras import require
from .graph import SegmentorGraph
from .metadata import Metadata

MIN_OPSET = 17
# Of an example that leaves a side open: none is 1, which would be taken for fixed.
_EXAMPLE = (2, 3, 97, 65)
_SIDES = ('batch', 'channels', 'height', 'width')

Writer = Callable[[SegmentorGraph, Path, Metadata, 'int | None'], None]


def write_onnx(
    graph: SegmentorGraph, path: Path, metadata: Metadata, opset: int | None = None
) -> None:
    """Write an ONNX file, weights included, by torch's own exporter.

    Args:
        graph: What to write.
        path: The file.
        metadata: Of the graph; becomes the file's ``metadata_props``.
        opset: Of the operators, at least :data:`MIN_OPSET`; None is the exporter's
            choice.

    Raises:
        ConfigError: If the graph cannot be written so, such as with sizes left open or
            at that opset.
        ExtraError: If a package is missing.
    """
    onnx = require('onnx')
    model = _onnx_model(graph, metadata, opset)
    for name, value in metadata.dump().items():
        model.metadata_props.add(key=name, value=value)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def write_openvino(
    graph: SegmentorGraph, path: Path, metadata: Metadata, opset: int | None = None
) -> None:
    """Write an OpenVINO IR, ``.xml`` and ``.bin``, in float32, by way of ONNX.

    Args:
        graph: What to write.
        path: The ``.xml``.
        metadata: Of the graph; becomes ``rt_info`` of the file.
        opset: Of the ONNX on the way.

    Raises:
        ConfigError: As for :func:`write_onnx`.
        ExtraError: If a package is missing.
        OSError: If it cannot be written.
    """
    openvino = require('openvino')
    data = _onnx_model(graph, metadata, opset).SerializeToString()
    save_openvino(openvino.Core().read_model(data), path, metadata)


def save_openvino(model: Any, path: Path, metadata: Metadata) -> None:
    """Write a model of OpenVINO's as it is, with its metadata.

    Args:
        model: The ``openvino.Model``.
        path: The ``.xml``.
        metadata: Of the model; becomes ``rt_info`` of the file.

    Raises:
        OSError: If it cannot be written.
    """
    for name, value in metadata.dump().items():
        model.set_rt_info(value, [METADATA_KEY, name])
    try:
        require('openvino').save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        # It says no more than that a stream has failed, or which file cannot be opened.
        raise OSError('OpenVINO could not write it, as on a full disk') from error


def write_torchscript(
    graph: SegmentorGraph, path: Path, metadata: Metadata, opset: int | None = None
) -> None:
    """Write a TorchScript file by tracing, which torch has deprecated.

    Args:
        graph: What to write.
        path: The file.
        metadata: Of the graph; becomes an extra file in it.
        opset: Must be None, there are no opsets.

    Raises:
        ConfigError: If there is an opset.
    """
    if opset is not None:
        raise ConfigError('TorchScript has no opset: leave out --opset')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        traced = torch.jit.trace(graph, (_example(metadata),), check_trace=False)
        extra = {METADATA_KEY: json.dumps(metadata.dump())}
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer, _extra_files=extra)
    path.write_bytes(buffer.getvalue())


FORMATS: dict[str, tuple[str, Writer]] = {
    'onnx': ('.onnx', write_onnx),
    'openvino': ('.xml', write_openvino),
    'torchscript': ('.pt', write_torchscript),
}
"""The suffix and the writer of each format."""


def _onnx_model(graph: SegmentorGraph, metadata: Metadata, opset: int | None) -> Any:
    # The exporter on torch.export is complete from torch 2.6 on.
    old = digit_version(torch.__version__) < digit_version('2.6')
    with _quiet():
        try:
            model = (_traced if old else _exported)(graph, metadata, opset)
        except (ExtraError, ImportError):
            raise
        except Exception as error:
            # The exporter's own say which of torch.export's steps failed.
            said = str(error.__cause__ or error).strip().splitlines()
            raise ConfigError(
                f'torch cannot export this model{_how(metadata, opset)}: '
                f'{said[0] if said else repr(error)}'
            ) from error
    (written,) = (entry.version for entry in model.opset_import if not entry.domain)
    if opset not in (None, written):
        raise ConfigError(
            f'the exporter could not bring this model to opset {opset}, but to {written}'
        )
    sides = model.graph.input[0].type.tensor_type.shape.dim
    fixed = [
        name
        for name, side, wanted in zip(_SIDES, sides, metadata.shape)
        if wanted is None and side.HasField('dim_value')
    ]
    if fixed:
        raise ConfigError(
            f'torch cannot leave the {" and ".join(fixed)} of this model open: something '
            'in it, such as its decode head, computes with it as a number. Export with '
            '--size'
        )
    # Where in whose folders each operator came from.
    for part in (*model.graph.node, *model.graph.value_info, model.graph):
        part.ClearField('metadata_props')
        part.ClearField('doc_string')
    return model


def _exported(graph: SegmentorGraph, metadata: Metadata, opset: int | None) -> Any:
    """Convert by the exporter on ``torch.export``."""
    require('onnxscript')
    sides = {
        index: torch.export.Dim(name, min=1, max=1 << 15)
        for index, name in _open_sides(metadata).items()
    }
    program = torch.onnx.export(
        graph,
        (_example(metadata),),
        dynamo=True,
        verbose=False,
        opset_version=opset,
        input_names=['image'],
        output_names=[metadata.output],
        dynamic_shapes=(sides,) if sides else None,
    )
    return program.model_proto  # type: ignore[union-attr]


def _traced(graph: SegmentorGraph, metadata: Metadata, opset: int | None) -> Any:
    """Convert by the exporter on TorchScript, the only one of torch 2.1."""
    # torch 2.1 takes a buffer, which newer stubs no longer name.
    buffer: Any = io.BytesIO()
    torch.onnx.export(
        graph,
        (_example(metadata),),
        buffer,
        opset_version=opset or MIN_OPSET,
        input_names=['image'],
        output_names=[metadata.output],
        dynamic_axes={'image': _open_sides(metadata)},
        # Otherwise norms are folded into convs, whose weights then lose their names.
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    return require('onnx').load_from_string(buffer.getvalue())


def _example(metadata: Metadata) -> torch.Tensor:
    shape = [want or usual for want, usual in zip(metadata.shape, _EXAMPLE)]
    return torch.zeros(shape, dtype=getattr(torch, metadata.dtype))


def _open_sides(metadata: Metadata) -> dict[int, str]:
    """Name the dimensions that are left open."""
    return {
        index: name
        for index, (name, side) in enumerate(zip(_SIDES, metadata.shape))
        if side is None
    }


def _how(metadata: Metadata, opset: int | None) -> str:
    dynamic = ' with its sizes left open' if None in metadata.shape else ''
    return dynamic + (f' at opset {opset}' if opset else '')


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on torchvision and version conversion to itself."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
