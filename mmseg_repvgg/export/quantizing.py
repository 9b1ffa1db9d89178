"""Int8 after training: an OpenVINO file whose loss in mIoU is known before it exists."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseModel

from ..errors import ConfigError, ExportError
from ..reparam import deploy
from .backends import Array, OpenVINOBackend, open_backend
from .exporting import export, staged, writer_for
from .extras import require
from .formats import save_openvino
from .graph import SegmentorGraph
from .int8_graph import Int8Graph, with_all_layers, within_drop
from .metadata import Metadata
from .real_images import CalibrationImages, Validation, check_sets


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A file that was written, and how it compares.

    Attributes:
        path: The ``.xml``.
        metadata: What the file says about itself; ``quantized`` has the layers.
        megabytes: Size of the file, ``.xml`` and ``.bin``.
        float_megabytes: That of the same graph in float32.
        miou: On the validation set, in percent.
        float_miou: That of the same graph in float32.
        whole_miou: That with all layers in int8; the same as ``miou`` if none was kept.
        scored: How many images the validation set has.
        running: How many of the layers in int8 are computed in int8 on this machine.
        contenders: To be timed: the fused model in torch, OpenVINO in float32 and in
            int8, each a function of images as the file takes them.
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
    """Export the fused form of a segmentor to OpenVINO, and bring it to int8.

    The graph in float32 is exported and compared with the model as every other. Then
    both it and the one in int8 are scored on the validation set.

    Args:
        cfg: The config of the model, with the training and the validation set.
        model: From :func:`~mmseg_repvgg.engine.load_model.load_model`, in any form.
        path: The ``.xml`` to write; replaced if it is there.
        size: Height and width of the images; see
            :func:`~mmseg_repvgg.export.exporting.export`.
        dynamic: Leave batch, height and width open.
        output: ``'logits'`` or ``'labels'``; the latter only if the validation set's
            images are of the size of its label maps.
        normalize: Whether the file takes images as they are read, and normalises them.
        images: How many of the training set to calibrate on; at least 1.
        max_drop: By how many points of mIoU the file may be worse than in float32, at
            least 0. The layers that cost most are kept in float32 until that is met.
            None: all layers are in int8, whatever it costs.
        seed: Of the choice of images.

    Raises:
        ConfigError: If an argument is not allowed, or the model or the data is not fit.
        DataError: If data is missing.
        ExportError: If the graph in float32 computes something else, or ``max_drop``
            cannot be met.
        ExtraError: If a package is missing.
        WriteError: If it cannot be written. In each of these cases nothing new is there.
    """
    path = Path(path)
    writer_for(path, 'openvino')
    _check_numbers(images, max_drop)
    check_sets(cfg)
    require('openvino', 'quantize')
    nncf = require('nncf', 'quantize')
    with staged(path) as stage:
        plain = stage.with_name(f'{path.stem}.float32.xml')
        exported = export(
            cfg,
            model,
            plain,
            'openvino',
            size=size,
            dynamic=dynamic,
            output=output,
            normalize=normalize,
        )
        before = _open(plain)
        validation = Validation(cfg, str(plain))
        float_miou, _ = validation.score(before)
        calibration = CalibrationImages(cfg, str(plain), images, seed)
        facts = dict(by=f'NNCF {nncf.__version__}', images=len(calibration), seed=seed)

        def write(found: Int8Graph) -> tuple[OpenVINOBackend, float, Metadata]:
            # What is open may still be read from the disk: a new file, not the same.
            _remove(stage)
            quantized = {**facts, 'layers': list(found.layers.values())}
            quantized['kept'] = found.kept
            metadata = dataclasses.replace(exported.metadata, quantized=quantized)
            save_openvino(found.model, stage, metadata)
            backend = _open(stage)
            return backend, validation.score(backend)[0], metadata

        found = with_all_layers(before, calibration)
        after, miou, metadata = write(found)
        whole_miou = miou
        if max_drop is not None and float_miou - miou > max_drop:
            print_log(
                f'all layers in int8: {miou:.2f} mIoU, {float_miou - miou:.2f} less than '
                f'in float32. Looking for those to keep in float32',
                'current',
            )
            found = within_drop(before, calibration, validation, max_drop)
            after, miou, metadata = write(found)
            _require(path, found, max_drop, float_miou, miou, whole_miou)
        _remove(plain)
        megabytes = sum(file.stat().st_size for file in stage.parent.iterdir()) / 1e6
    return Quantized(
        path=path,
        metadata=metadata,
        megabytes=megabytes,
        float_megabytes=exported.megabytes,
        miou=miou,
        float_miou=float_miou,
        whole_miou=whole_miou,
        scored=len(validation),
        running=_running_in_int8(after, found),
        contenders={
            'torch float32': _in_torch(model, exported.metadata),
            'OpenVINO float32': before,
            'OpenVINO int8': after,
        },
        sample=validation.sample(),
    )


def _running_in_int8(backend: OpenVINOBackend, found: Int8Graph) -> int:
    types = backend.precisions()
    return sum(types.get(operation) in ('i8', 'u8') for operation in found.layers)


def _in_torch(model: BaseModel, metadata: Metadata) -> Callable[[Array], Array]:
    graph = SegmentorGraph(deploy(model), metadata).eval()

    @torch.inference_mode()
    def run(images: Array) -> Array:
        return graph(torch.from_numpy(images)).numpy()

    return run


def _open(path: Path) -> OpenVINOBackend:
    backend = open_backend(path)
    assert isinstance(backend, OpenVINOBackend)
    return backend


def _remove(path: Path) -> None:
    for suffix in ('.xml', '.bin'):
        path.with_suffix(suffix).unlink(missing_ok=True)


def _check_numbers(images: int, max_drop: float | None) -> None:
    if images < 1:
        raise ConfigError(
            f'--images must be at least 1, but got {images}: without images to calibrate '
            'on there are no ranges for int8'
        )
    # Written so that NaN fails as well.
    if max_drop is not None and not max_drop >= 0:
        raise ConfigError(
            f'--max-drop must be at least 0 points of mIoU, but got {max_drop}'
        )


def _require(
    path: Path,
    found: Int8Graph,
    max_drop: float,
    float_miou: float,
    miou: float,
    whole_miou: float,
) -> None:
    if found.layers and float_miou - miou <= max_drop:
        return
    if found.layers:
        reached = (
            f'the best that was found {float_miou - miou:.2f}, with {len(found.layers)} '
            f'layers in int8 and {len(found.kept)} in float32'
        )
    else:
        reached = 'nothing less is lost as long as one layer is in int8'
    raise ExportError(
        f'{path} was not written: of the {float_miou:.2f} mIoU in float32, --max-drop '
        f'lets {max_drop:g} be lost. All layers in int8 lose '
        f'{float_miou - whole_miou:.2f}, and {reached}. Allow more, or calibrate on more '
        '--images'
    )
