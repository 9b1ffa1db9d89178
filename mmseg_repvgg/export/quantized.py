"""Quantization to int8 after training, scored on the validation set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseModel

from repvgg_runtime.backends import Array, OpenVINOBackend, open_backend
from repvgg_runtime.extras import require
from repvgg_runtime.metadata import Metadata

from ..errors import ConfigError, ExportError
from .exported import check_path, export, megabytes
from .formats import save_openvino
from .graph import SegmentorGraph
from .int8_graph import Int8Graph, quantize_graph
from .real_images import CalibrationImages, Validation, check_sets
from .staging import staged

_CPU_INFO = Path('/proc/cpuinfo')


@dataclasses.dataclass(frozen=True)
class Quantized:
    """Int8 file that was written, and its comparison with float32.

    Attributes:
        path: The ``.xml``.
        metadata: Facts that the file stores about itself; ``quantized`` has the layers.
        megabytes: Size of the file, ``.xml`` and ``.bin``.
        float_megabytes: Size of the same graph in float32.
        miou: mIoU on the validation set, in percent.
        float_miou: mIoU of the same graph in float32.
        whole_miou: mIoU with all layers in int8.
        scored: Number of images of the validation set.
        running: Number of the layers in int8 that compute in int8 on this machine.
        contenders: Functions to time, which take images as the file does: the fused
            model in torch, OpenVINO in float32 and in int8.
        sample: An image of the validation set, as the file takes it.
    """

    path: Path
    metadata: Metadata
    megabytes: float
    float_megabytes: float
    miou: float
    float_miou: float
    whole_miou: float
    scored: int
    running: int
    contenders: dict[str, Callable[[Array], Any]]
    sample: Array


def quantize(
    cfg: Config,
    model: BaseModel,
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    output: str = 'logits',
    normalize: bool = False,
    images: int = 300,
    max_drop: float | None = None,
    seed: int = 0,
) -> Quantized:
    """Export the fused form of a segmentor to OpenVINO and quantize it to int8.

    The graph in float32 is exported and compared with the model as every export is. It
    and the graph in int8 are then scored on the validation set.

    Args:
        cfg: The config of the model, with the training and the validation set.
        model: From :func:`~mmseg_repvgg.engine.load_model.load_model`, in any form.
        path: The ``.xml`` to write; replaced if it exists.
        size: See :func:`~mmseg_repvgg.export.exported.export`.
        dynamic: See there.
        output: ``'logits'`` or ``'labels'``; labels only if the validation set's images
            have the size of their label maps.
        normalize: See there.
        images: Number of images of the training set to calibrate on; at least 1.
        max_drop: Points of mIoU that may be lost, at least 0. The layers that cost most
            are kept in float32 until the drop is met. None: all layers are in int8.
        seed: Seed that chooses the images.

    Raises:
        ConfigError: If an argument is not allowed, or the model or the data do not fit.
        DataError: If data is missing.
        ExportError: If the graph in float32 does not compute what the model computes, or
            ``max_drop`` cannot be met.
        ExtraError: If a package is missing.
        WriteError: If the file cannot be written. No error leaves a new file.
    """
    path = Path(path)
    check_path(path, 'openvino')
    if images < 1:
        raise ConfigError(f'--images must be at least 1, but got {images}')
    # A comparison with NaN is false.
    if max_drop is not None and not max_drop >= 0:
        raise ConfigError(
            f'--max-drop must be at least 0 points of mIoU, but got {max_drop}'
        )
    check_sets(cfg)
    require('openvino', 'quantize')
    nncf = require('nncf', 'quantize')
    with staged(path) as stage:
        exported = export(
            cfg,
            model,
            stage.parent / 'float32' / path.name,
            'openvino',
            size=size,
            dynamic=dynamic,
            output=output,
            normalize=normalize,
        )
        before = _open(exported.path)
        validation = Validation(cfg, str(exported.path))
        float_miou, _ = validation.score(before)
        calibration = CalibrationImages(cfg, str(exported.path), images, seed)
        facts = dict(by=f'NNCF {nncf.__version__}', images=len(calibration), seed=seed)

        def write(graph: Int8Graph) -> tuple[OpenVINOBackend, float]:
            # An open file is still mapped: unlink it rather than overwrite it.
            for suffix in ('.xml', '.bin'):
                stage.with_suffix(suffix).unlink(missing_ok=True)
            quantized = {**facts, 'layers': [*graph.layers.values()], 'kept': graph.kept}
            metadata = dataclasses.replace(exported.metadata, quantized=quantized)
            save_openvino(graph.model, stage, metadata)
            backend = _open(stage)
            return backend, validation.score(backend)[0]

        graph = quantize_graph(before, calibration)
        after, miou = write(graph)
        whole_miou = miou
        if max_drop is not None and float_miou - miou > max_drop:
            print_log(
                f'{miou:.2f} mIoU with all layers in int8, {float_miou - miou:.2f} less '
                'than in float32. Searching for the layers to keep in float32',
                'current',
            )
            graph = quantize_graph(before, calibration, validation, max_drop)
            after, miou = write(graph)
            if not graph.layers or float_miou - miou > max_drop:
                raise ExportError(
                    f'--max-drop {max_drop:g} cannot be met, so {path} was not written: '
                    f'all layers in int8 lose {float_miou - whole_miou:.2f} of '
                    f'{float_miou:.2f} mIoU, the best graph with {len(graph.layers)} in '
                    f'int8 and {len(graph.kept)} in float32 {float_miou - miou:.2f}. '
                    'Allow more, or calibrate on more --images'
                )
        size_on_disk = megabytes(stage)
    precisions = after.precisions()
    return Quantized(
        path=path,
        metadata=after.metadata,
        megabytes=size_on_disk,
        float_megabytes=exported.megabytes,
        miou=miou,
        float_miou=float_miou,
        whole_miou=whole_miou,
        scored=len(validation),
        running=sum(precisions.get(name) in ('i8', 'u8') for name in graph.layers),
        contenders={
            'torch float32': _in_torch(model, exported.metadata),
            'OpenVINO float32': before,
            'OpenVINO int8': after,
        },
        sample=validation.inputs(0)[0],
    )


def missing_for_int8() -> str | None:
    """Return what an x86 processor lacks for fast int8; None if nothing or unknown."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return None
    flags = next((line for line in lines if line.startswith('flags')), 'vnni')
    if 'vnni' in flags:
        return None
    return 'this processor has neither VNNI nor AMX, with which int8 is faster'


def _in_torch(model: BaseModel, metadata: Metadata) -> Callable[[Array], Array]:
    graph = SegmentorGraph(model, metadata).eval()

    @torch.inference_mode()
    def run(images: Array) -> Array:
        return graph(torch.from_numpy(images)).numpy()

    return run


def _open(path: Path) -> OpenVINOBackend:
    backend = open_backend(path, threads=torch.get_num_threads())
    assert isinstance(backend, OpenVINOBackend)
    return backend
