"""Exported files, ready to run in ONNX Runtime, OpenVINO or TorchScript.

All compute in float32, although OpenVINO prefers bfloat16 on a CPU that has it.
"""

from __future__ import annotations

import json
import os
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .cores import default_threads
from .errors import ConfigError
from .extras import require
from .kernels.build import add_openvino_extension
from .metadata import Metadata
from .signal_stack import keep_signal_stack
from .special_files import refuse_special_file

METADATA_KEY = 'mmseg_repvgg'

Array = npt.NDArray[Any]


class Backend(ABC):
    """Exported file, ready to run.

    Args:
        path: The file.
        device: Device to run it on.
        threads: Number of threads on a CPU.

    Attributes:
        metadata: Facts that the file stores about itself.
    """

    metadata: Metadata

    def __init__(self, path: Path, device: str, threads: int) -> None:
        self.path, self.threads = path, threads
        self.metadata = Metadata.load(self._open(device), path)

    def __call__(self, images: Array) -> Array:
        """Segment images.

        Args:
            images: Shape (B, bands, H, W), of ``metadata.dtype``.

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
                f'{self.path.name} takes images of shape {shape_text(wanted)}, but got '
                f'{shape_text(images.shape)}. Resize the images in the test_pipeline, or '
                'write the file again with that --size or with --dynamic'
            )
        if images.dtype != dtype:
            raise ConfigError(f'{self.path.name} takes {dtype}, but got {images.dtype}')

    @abstractmethod
    def _open(self, device: str) -> dict[str, str]:
        """Load the file and return its metadata."""

    @abstractmethod
    def _run(self, images: Array) -> Array:
        """Compute the output."""


class OnnxBackend(Backend):
    """ONNX file in ONNX Runtime; ``device`` is ``'cpu'`` or ``'cuda'``."""

    def _open(self, device: str) -> dict[str, str]:
        # ONNX Runtime would report its use over the network.
        os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
        runtime = require('onnxruntime')
        name, _, index = device.partition(':')
        provider = f'{name.upper()}ExecutionProvider'
        available = runtime.get_available_providers()
        if provider not in available:
            raise ConfigError(
                f'ONNX Runtime has no {provider}, only {", ".join(available)}. Give '
                f'another --device, or install a build of ONNX Runtime with {provider}'
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # Threads that spin while they wait take a core from other work.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        self._session = runtime.InferenceSession(
            str(self.path), options, [provider], [{'device_id': index} if index else {}]
        )
        # ONNX Runtime falls back to the CPU if the libraries of a provider are missing.
        if provider not in self._session.get_providers():
            raise ConfigError(
                f'ONNX Runtime cannot use {provider}, as it logged above: install the '
                'version of CUDA and cuDNN that it names, or give --device cpu'
            )
        (self._input,) = (value.name for value in self._session.get_inputs())
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def _run(self, images: Array) -> Array:
        return self._session.run(None, {self._input: images})[0]


class OpenVINOBackend(Backend):
    """OpenVINO IR, int8 too; ``device`` is one of OpenVINO's, such as ``'cpu'``."""

    @keep_signal_stack()
    def _open(self, device: str) -> dict[str, str]:
        core = require('openvino').Core()
        refuse_special_file(self.path.with_suffix('.bin'))
        # The metadata cannot be read before: it is a part of the model.
        if 'type="WinogradConvolution"' in self.path.read_text():
            add_openvino_extension(core)
        model = core.read_model(self.path)
        settings: dict[str, Any] = {
            'INFERENCE_PRECISION_HINT': 'f32',
            'PERFORMANCE_HINT': 'LATENCY',
        }
        if device.lower() == 'cpu':
            settings['INFERENCE_NUM_THREADS'] = self.threads
        self._model = core.compile_model(model, device.upper(), settings)
        self._lock = threading.Lock()
        if not model.has_rt_info([METADATA_KEY]):
            return {}
        return model.get_rt_info([METADATA_KEY]).value

    def precisions(self) -> dict[str, str]:
        """Return the type in which each operation computes on this machine.

        Returns:
            Types such as ``'f32'`` or ``'u8'`` by the name of the operation in the file;
            operations that were fused into one have the type of that one.
        """
        types = {}
        for operation in self._model.get_runtime_model().get_ops():
            facts = operation.get_rt_info()
            for name in facts['originalLayersNames'].astype(str).split(','):
                types[name] = facts['runtimePrecision'].astype(str)
        return types

    def _run(self, images: Array) -> Array:
        # Calls of a compiled model share one infer request with its input and output.
        with self._lock:
            return self._model(images)[0]


class TorchScriptBackend(Backend):
    """TorchScript file in torch; ``device`` is ``'cpu'``, for which it was traced.

    It runs with torch's own number of threads.
    """

    def _open(self, device: str) -> dict[str, str]:
        if device != 'cpu':
            raise ConfigError(f'TorchScript files run on the CPU only, not on {device}')
        self._torch = require('torch')
        extra = {METADATA_KEY: ''}
        self._module = self._torch.jit.load(str(self.path), 'cpu', _extra_files=extra)
        return json.loads(extra[METADATA_KEY] or '{}')

    def _run(self, images: Array) -> Array:
        with self._torch.inference_mode():
            return self._module(self._torch.from_numpy(images)).numpy()


BACKENDS: dict[str, type[Backend]] = {
    '.onnx': OnnxBackend,
    '.xml': OpenVINOBackend,
    '.pt': TorchScriptBackend,
}
"""Backend of each file suffix."""


def open_backend(
    path: str | Path, device: str = 'cpu', threads: int | None = None
) -> Backend:
    """Open an exported file.

    A file is a program: open only files that you trust.

    Args:
        path: The file: ``.onnx``, ``.xml`` (with its ``.bin`` beside it) or ``.pt``.
        device: Device to run it on.
        threads: Number of threads on a CPU; by default
            :func:`~repvgg_runtime.cores.default_threads`.

    Raises:
        ConfigError: If the file does not exist, cannot be read or was not exported by
            this package, or the backend does not have the device.
        ExtraError: If the backend is not installed.
    """
    path = Path(path)
    if path.suffix not in BACKENDS:
        raise ConfigError(f'{path} must end in one of {", ".join(BACKENDS)}')
    if not path.exists():
        raise ConfigError(f'{path} does not exist. Make it with mmseg-repvgg export')
    try:
        refuse_special_file(path)
        return BACKENDS[path.suffix](path, device, threads or default_threads())
    except (ConfigError, ImportError):
        raise
    except Exception as error:
        # The runtimes raise errors of types of their own.
        raise ConfigError(
            f'{path} cannot be opened on {device}: {last_line(error)}'
        ) from error


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Return a shape as text, such as ``1x3x?x?``, in which ``?`` is open."""
    return 'x'.join('?' if side is None else str(side) for side in shape)


def last_line(error: Exception) -> str:
    """Return the last line of an error: C++ runtimes put source locations before it."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else repr(error)
