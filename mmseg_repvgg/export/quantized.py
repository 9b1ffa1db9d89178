"""Quantization to int8 after training, scored on the validation set.

Ranges are measured on images of the training set. Processors without VNNI overflow if
both the image and the weights of the first convolution use all 8 bits, so these weights
have 7. Rounded to the nearest, they cost RepVGG more mIoU than all other rounding; GPTQ
avoids that loss.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseModel

from repvgg_runtime.backends import Array, open_backend
from repvgg_runtime.extras import require
from repvgg_runtime.metadata import Metadata
from repvgg_runtime.processor import instruction_sets

from ..datasets.checks import check_dataset
from ..engine.config_checks import check_keys
from ..errors import ConfigError, ExportError
from .exported import check_path, export, megabytes
from .formats import save_openvino
from .gptq import round_weights
from .graph import SegmentorGraph
from .int8_graph import INT8, METHODS, quantize_graph
from .ranges import LayerRanges, read_ranges
from .real_images import CalibrationImages, Validation
from .staging import staged

ENGINES = ('torch', 'phases')
# Largest number of calibration images from which GPTQ computes moments.
_ROUNDING_IMAGES = 32


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
        max_drop: Limit for the loss of mIoU, in points; None if there was none.
        scored: Number of images of the validation set.
        running: Number of layers that compute in int8 on this machine.
        ranges: Ranges of the layers in int8.
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
    max_drop: float | None
    scored: int
    running: int
    ranges: list[LayerRanges]
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
    engine: str = 'torch',
    method: str = METHODS[0],
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
        size: As for :func:`~mmseg_repvgg.export.exported.export`.
        dynamic: As for ``export``.
        output: ``'logits'`` or ``'labels'``; labels only if the validation set's images
            have the size of their label maps.
        normalize: As for ``export``.
        engine: ``'torch'``, or ``'phases'`` to compute dilated blocks without dilation.
        method: How weights are rounded: ``'gptq'``, so that errors compensate each other,
            see :func:`~mmseg_repvgg.export.gptq.round_weights`; ``'nncf'``, to the
            nearest.
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
    if engine not in ENGINES:
        raise ConfigError(f'--engine must be one of {ENGINES}, but got {engine!r}')
    if method not in METHODS:
        raise ConfigError(f'--method must be one of {METHODS}, but got {method!r}')
    if images < 1:
        raise ConfigError(f'--images must be at least 1, but got {images}')
    # A comparison with NaN is false.
    if max_drop is not None and not max_drop >= 0:
        raise ConfigError(
            f'--max-drop must be at least 0 points of mIoU, but got {max_drop}'
        )
    check_keys(cfg, ('train_dataloader', 'val_dataloader', 'val_evaluator'), 'quantizing')
    check_dataset(cfg.train_dataloader.dataset)
    check_dataset(cfg.val_dataloader.dataset)
    require('openvino', 'quantize')
    nncf = require('nncf', 'quantize')
    threads = torch.get_num_threads()
    with staged(path) as stage:
        options: dict[str, Any] = dict(
            size=size,
            dynamic=dynamic,
            output=output,
            normalize=normalize,
            engine=engine,
        )
        float_path = stage.parent / 'float32' / path.name
        exported = export(cfg, model, float_path, 'openvino', **options)
        before: Any = open_backend(float_path, threads=threads)
        validation = Validation(cfg, str(float_path))
        float_miou, _ = validation.score(before)
        calibration = CalibrationImages(cfg, str(float_path), images, seed)
        facts = dict(
            by=f'NNCF {nncf.__version__}',
            images=len(calibration),
            seed=seed,
        )
        source = float_path
        if method == 'gptq':
            network = SegmentorGraph(model, exported.metadata).eval()
            # Neighbours may be frames of one scene.
            step = -(-len(calibration) // _ROUNDING_IMAGES)
            chosen = range(0, len(calibration), step)
            batches = (torch.from_numpy(calibration[position]) for position in chosen)
            rounded: Any = round_weights(
                model, map(network.normalize, batches) if normalize else batches
            )
            source = stage.parent / 'rounded' / path.name
            export(cfg, rounded, source, 'openvino', **options)

        def attempt(
            source: Path, method: str, max_drop: float | None = None
        ) -> tuple[Any, float, int]:
            """Return the written file, its mIoU and how many layers run in int8."""
            limit = None if max_drop is None else (max_drop, validation)
            graph, layers, kept = quantize_graph(source, calibration, method, limit)
            quantized = dict(facts, method=method, layers=[*layers.values()], kept=kept)
            # An open file is still mapped: unlink it rather than overwrite it.
            for suffix in ('.xml', '.bin'):
                stage.with_suffix(suffix).unlink(missing_ok=True)
            metadata = dataclasses.replace(exported.metadata, quantized=quantized)
            save_openvino(graph, stage, metadata)
            file: Any = open_backend(stage, threads=threads)
            types = file.precisions()
            running = sum(types.get(operation) in INT8 for operation in layers)
            return file, validation.score(file)[0], running

        after, miou, running = attempt(source, method)
        whole_miou = miou
        if max_drop is not None and float_miou - miou > max_drop:
            print_log(
                f'{miou:.2f} mIoU with all layers in int8, {float_miou - miou:.2f} less '
                'than in float32. Searching for the layers to keep in float32, with '
                'weights rounded to the nearest',
                'current',
            )
            # Layers that are kept must have their own weights, not those of GPTQ.
            after, miou, running = attempt(float_path, 'nncf', max_drop)
            layers, kept = (len(after.metadata.quantized[k]) for k in ('layers', 'kept'))
            if not layers or float_miou - miou > max_drop:
                raise ExportError(
                    f'--max-drop {max_drop:g} cannot be met, so {path} was not written: '
                    f'all layers in int8 lose {float_miou - whole_miou:.2f} of '
                    f'{float_miou:.2f} mIoU, the best graph with {layers} in int8 and '
                    f'{kept} in float32 {float_miou - miou:.2f}. Allow more, or '
                    'calibrate on more --images'
                )
        size_on_disk = megabytes(stage)
        ranges = read_ranges(float_path, stage)
    network = SegmentorGraph(model, exported.metadata).eval()

    @torch.inference_mode()
    def run_torch(images: Array) -> Array:
        return network(torch.from_numpy(images)).numpy()

    return Quantized(
        path=path,
        metadata=after.metadata,
        megabytes=size_on_disk,
        float_megabytes=exported.megabytes,
        miou=miou,
        float_miou=float_miou,
        whole_miou=whole_miou,
        max_drop=max_drop,
        scored=len(validation),
        running=running,
        ranges=ranges,
        contenders={
            'torch float32': run_torch,
            'OpenVINO float32': before,
            'OpenVINO int8': after,
        },
        sample=validation.inputs(0)[0],
    )


def missing_for_int8() -> str | None:
    """Return what an x86 processor lacks for fast int8; None if nothing or unknown."""
    sets = instruction_sets()
    if 'sse2' not in sets or any('vnni' in name for name in sets):
        return None
    return 'this processor has neither VNNI nor AMX, with which int8 is faster'
