"""Running exported files: ONNX Runtime, OpenVINO, TorchScript, behind one call.

All compute in float32: OpenVINO would by itself take bfloat16 where a CPU has it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import ConfigError
from ..special_files import refuse_special_file
from .extras import require
from .metadata import Metadata
from .signal_stack import keep_signal_stack

METADATA_KEY = 'mmseg_repvgg'

Array = npt.NDArray[Any]


class Backend(ABC):
    """An exported file, ready to run.

    Args:
        path: The file.
        device: Where to run it.
        threads: How many threads may compute.

    Attributes:
        metadata: What the file says about itself.
    """

    metadata: Metadata

    def __init__(self, path: Path, device: str, threads: int) -> None:
        self.path = path
        self.metadata = Metadata.load(self._open(device, threads), path)

    def __call__(self, images: Array) -> Array:
        """Segment images.

        Args:
            images: Shape (B, 3, H, W), of ``metadata.dtype``.

        Returns:
            Labels (B, H, W) or logits (B, classes, H, W).

        Raises:
            ConfigError: If the file takes images of another shape or type.
        """
        self.check(images)
        return self._run(np.ascontiguousarray(images))

    def check(self, images: Array) -> None:
        """Raise a ConfigError if the file takes images of another shape or type."""
        wanted, dtype = self.metadata.shape, self.metadata.dtype
        fits = images.ndim == 4 and all(
            want in (None, got) for want, got in zip(wanted, images.shape)
        )
        if not fits:
            raise ConfigError(
                f'{self.path} takes images of shape {_text(wanted)}, but got '
                f'{_text(images.shape)}. Resize them to that in the test_pipeline, or '
                'write the file anew with the --size they have, or with --dynamic'
            )
        if images.dtype != dtype:
            raise ConfigError(f'{self.path} takes {dtype}, but got {images.dtype}')

    @abstractmethod
    def _open(self, device: str, threads: int) -> dict[str, str]:
        """Make the file ready, and read its metadata."""

    @abstractmethod
    def _run(self, images: Array) -> Array:
        """Compute the one output."""


class OnnxBackend(Backend):
    """An ONNX file in ONNX Runtime; ``device`` is ``'cpu'`` or ``'cuda'``."""

    def _open(self, device: str, threads: int) -> dict[str, str]:
        runtime = require('onnxruntime')
        provider = f'{device.upper()}ExecutionProvider'
        available = runtime.get_available_providers()
        if provider not in available:
            raise ConfigError(
                f'ONNX Runtime has no {provider}, it has {", ".join(available)}: give '
                'another --device, or install the build for it'
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        # Waiting threads would keep a core from whatever else runs.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        self._session = runtime.InferenceSession(
            str(self.path), options, providers=[provider]
        )
        (self._input,) = (value.name for value in self._session.get_inputs())
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def _run(self, images: Array) -> Array:
        return self._session.run(None, {self._input: images})[0]


class OpenVINOBackend(Backend):
    """An OpenVINO IR, int8 too; ``device`` is one of OpenVINO's, such as ``'cpu'``."""

    @keep_signal_stack()
    def _open(self, device: str, threads: int) -> dict[str, str]:
        openvino = require('openvino')
        core = openvino.Core()
        refuse_special_file(self.path.with_suffix('.bin'))
        model = core.read_model(self.path)
        settings: dict[str, Any] = {
            'INFERENCE_PRECISION_HINT': 'f32',
            'PERFORMANCE_HINT': 'LATENCY',
        }
        if device.lower() == 'cpu':
            settings['INFERENCE_NUM_THREADS'] = threads
        self._model = core.compile_model(model, device.upper(), settings)
        return {
            name: model.get_rt_info([METADATA_KEY, name]).astype(str)
            for name in Metadata.names()
            if model.has_rt_info([METADATA_KEY, name])
        }

    def precisions(self) -> dict[str, str]:
        """In which type each operation computes here, such as ``'f32'`` or ``'u8'``.

        Returns:
            By the name of the operation in the file; of what was merged into one, each.
        """
        types = {}
        for operation in self._model.get_runtime_model().get_ops():
            facts = operation.get_rt_info()
            for name in facts['originalLayersNames'].astype(str).split(','):
                types[name] = facts['runtimePrecision'].astype(str)
        return types

    def _run(self, images: Array) -> Array:
        # The result's memory is the request's, which the next call overwrites.
        return self._model(images)[0].copy()


class TorchScriptBackend(Backend):
    """A TorchScript file in torch; ``device`` is ``'cpu'``, on which it was traced."""

    def _open(self, device: str, threads: int) -> dict[str, str]:
        if device != 'cpu':
            raise ConfigError(
                f'TorchScript files are traced for the CPU and run there only, not on '
                f'{device}'
            )
        self._threads = threads
        extra = {METADATA_KEY: ''}
        self._module = torch.jit.load(str(self.path), 'cpu', _extra_files=extra)
        return json.loads(extra[METADATA_KEY] or '{}')

    @torch.inference_mode()
    def _run(self, images: Array) -> Array:
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            return self._module(torch.from_numpy(images)).numpy()
        finally:
            torch.set_num_threads(before)


BACKENDS: dict[str, type[Backend]] = {
    '.onnx': OnnxBackend,
    '.xml': OpenVINOBackend,
    '.pt': TorchScriptBackend,
}
"""By the suffix of the file."""


def open_backend(
    path: str | Path, device: str = 'cpu', threads: int | None = None
) -> Backend:
    """Open an exported file.

    A file is a program: open only what you trust.

    Args:
        path: The file: ``.onnx``, ``.xml`` (with its ``.bin`` beside it) or ``.pt``.
        device: Where to run it.
        threads: How many threads may compute; by default as many as torch takes.

    Raises:
        ConfigError: If it does not exist, cannot be read, is none of ours, or the device
            is none of the backend's.
        ExtraError: If the backend is not installed.
    """
    path = Path(path)
    if path.suffix not in BACKENDS:
        raise ConfigError(
            f'{path} must be a file of one of {", ".join(BACKENDS)}, by which its '
            'backend is chosen'
        )
    if not path.exists():
        raise ConfigError(f'the file {path} does not exist. Make it with tools/export.py')
    try:
        refuse_special_file(path)
        return BACKENDS[path.suffix](path, device, threads or torch.get_num_threads())
    except (ConfigError, ImportError):
        raise
    except Exception as error:
        # Each of the three has errors of its own.
        raise ConfigError(
            f'{path} cannot be opened on {device}: {said_last(error)}'
        ) from error


def _text(shape: tuple[int | None, ...]) -> str:
    return 'x'.join('any' if side is None else str(side) for side in shape)


def said_last(error: Exception) -> str:
    """The last line of what an error says: C++ puts where it happened before it."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(error)
