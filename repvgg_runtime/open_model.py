"""Open a trained model, whatever it is stored as."""

from __future__ import annotations

import importlib
import os
import warnings
from pathlib import Path
from typing import Any

from .backends import BACKENDS
from .errors import ConfigError, ExtraError
from .extras import quiet, require
from .segmenter import BaseSegmenter, ExportedSegmenter

_CHECKPOINTS = ('.pth', '.pt', '.ckpt', '.safetensors')


def open_model(
    model: str,
    config: str | None = None,
    *,
    device: str | None = None,
    threads: int | None = None,
    keep_trained: bool = False,
    **options: Any,
) -> BaseSegmenter:
    """Open a model to segment images with.

    Args:
        model: An exported file (``.onnx``, ``.xml`` or ``.pt``), which needs neither
            torch nor mmseg; a folder of ``Segmenter.save_pretrained`` or the id of one
            on the Hugging Face hub; or, with ``config``, a checkpoint.
        config: The config of a checkpoint.
        device: Device to run it on; by default the CPU for an exported file, else a GPU
            if there is one.
        threads: Number of threads on a CPU.
        keep_trained: Keep the training form of a checkpoint for ``forms``.
        **options: Further arguments of ``mmseg_repvgg.Segmenter``, such as ``engine``;
            an exported file takes none. None leaves the default.

    Raises:
        ConfigError: If the model needs another argument, or cannot be opened.
        ExtraError: If a package that it needs is not installed.
    """
    suffix, exported = Path(model).suffix.lower(), is_exported(model, config)
    if exported or os.path.isdir(model):
        if config is not None:
            raise ConfigError(f'{model} holds its config: leave out --config')
    elif config is None and suffix in _CHECKPOINTS:
        missing = '' if os.path.exists(model) else ', and does not exist'
        raise ConfigError(
            f'{model} is a checkpoint{missing}: give its config by --config'
        )
    elif config is None and os.path.isfile(model):
        raise ConfigError(
            f'{model} is neither an exported file ({", ".join(BACKENDS)}) nor a '
            f'checkpoint ({", ".join(_CHECKPOINTS)})'
        )
    if exported:
        given = [name for name, value in options.items() if value]
        if given:
            raise ConfigError(
                f'{model} is an exported file, which takes no {" and no ".join(given)}: '
                'that is for checkpoints'
            )
        if threads and suffix == '.pt':
            require('torch').set_num_threads(threads)
        return ExportedSegmenter(model, device or 'cpu', threads)
    try:
        with quiet():
            package = importlib.import_module('mmseg_repvgg')
            torch = importlib.import_module('torch')
    except ImportError as error:
        raise ExtraError(
            f'{model} needs torch and MMSegmentation ({error}); only an exported file '
            f'({", ".join(BACKENDS)}) runs without'
        ) from error
    # mmseg warns of settings that are intended here.
    warnings.filterwarnings('ignore', 'When align_corners=True')
    if threads:
        torch.set_num_threads(threads)
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(f'torch has no device {device} here: {error}') from error
    chosen = {name: value for name, value in options.items() if value is not None}
    if config is not None:
        return package.Segmenter(
            config, model, keep_trained=keep_trained, device=device, **chosen
        )
    return package.Segmenter.from_pretrained(model, device=device, **chosen)


def is_exported(model: str, config: str | None) -> bool:
    """Return whether a model is an exported file rather than a checkpoint."""
    suffix = Path(model).suffix.lower()
    return suffix in BACKENDS and not (suffix == '.pt' and config)
