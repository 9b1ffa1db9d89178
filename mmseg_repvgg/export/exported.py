"""Export of a segmentor to a file that is verified before it is saved."""

import dataclasses
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.model import BaseModel

from repvgg_runtime.backends import open_backend
from repvgg_runtime.metadata import Metadata

from ..engine.load_model import image_bands
from ..errors import ConfigError
from ..reparam import deploy
from ..winograd import PRECISIONS
from .formats import FORMATS, MIN_OPSET
from .graph import SegmentorGraph
from .metadata import describe
from .staging import staged
from .verify import Agreement, smooth_noise, verify

ENGINES = ('torch', 'winograd', 'phases')

# Sizes at which a file with open sizes is verified: some that bins and strides divide,
# some that they do not, several batch sizes, and the smallest image.
DYNAMIC_SHAPES = [(1, 97, 193), (3, 64, 128), (2, 91, 67), (1, 1, 1)]


@dataclasses.dataclass(frozen=True)
class Exported:
    """File that was written.

    Attributes:
        path: The file; for OpenVINO the ``.xml``.
        megabytes: Size of the file; for OpenVINO of both.
        metadata: Facts that the file stores about itself.
        agreement: Difference from the model: of the logits of the graph, and of the
            labels of the file.
        shapes: (B, H, W) of the images that were compared.
    """

    path: Path
    megabytes: float
    metadata: Metadata
    agreement: Agreement
    shapes: list[tuple[int, int, int]]


def export(
    cfg: Config,
    model: BaseModel,
    path: str | Path,
    to: str,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    dynamic: bool = False,
    output: str = 'labels',
    normalize: bool = False,
    opset: int | None = None,
    engine: str = 'torch',
    precision: str = 'highest',
) -> Exported:
    """Export the fused form of a segmentor and compare the file with it.

    Labels hide small differences. For a file of labels, the same graph is therefore
    exported with logits first, which are compared and not kept.

    Args:
        cfg: The config of the model.
        model: From :func:`~mmseg_repvgg.engine.load_model.load_model`, in any form.
        path: The file to write, with the suffix of the format; replaced if it exists.
        to: One of :data:`~mmseg_repvgg.export.formats.FORMATS`.
        size: Height and width of the images, each at least 1; with ``dynamic``, one more
            size to compare at.
        batch: Number of images at once.
        dynamic: Leave batch, height and width open.
        output: ``'labels'`` or ``'logits'``.
        normalize: Whether the file takes images as they are read, uint8, and normalizes
            them.
        opset: ONNX opset, at least 17; None for the exporter's choice.
        engine: ``'winograd'`` for an OpenVINO file that computes 3x3 convolutions as
            ``deploy(model, 'winograd')`` does, by an extension of OpenVINO; ``'phases'``
            for a standard file whose dilated blocks are computed without dilation, as
            ``deploy(model, 'phases')`` does; ``'torch'`` for a standard file.
        precision: Precision of the Winograd engine, see :func:`~mmseg_repvgg.deploy`. A
            file of ``'medium'`` may differ from the model by
            :data:`~mmseg_repvgg.export.verify.TOLERANCES`.

    Raises:
        ConfigError: If an argument is not allowed, or the model cannot be exported so.
        ExportError: If the file does not compute what the model computes.
        ExtraError: If a package is missing.
        WriteError: If the file cannot be written. No error leaves a new file.
    """
    path = Path(path)
    check_path(path, to)
    if size is None and not dynamic:
        raise ConfigError('give --size H W, or --dynamic to leave batch and size open')
    if min((batch, *(size or ()))) < 1:
        raise ConfigError(
            'images must be at least 1x1 pixels and batches 1 image, but got a size of '
            f'{size} and a batch of {batch}'
        )
    if opset is not None and opset < MIN_OPSET:
        raise ConfigError(f'--opset must be at least {MIN_OPSET}, but got {opset}')
    if engine not in ENGINES:
        raise ConfigError(f'--engine must be one of {ENGINES}, but got {engine!r}')
    if engine == 'winograd' and to != 'openvino':
        raise ConfigError(
            f'only OpenVINO files have --engine winograd, but got --to {to}: its runtime '
            'has no such extension'
        )
    if precision not in PRECISIONS:
        raise ConfigError(
            f'--precision must be one of {tuple(PRECISIONS)}, but got {precision!r}'
        )
    if precision != 'highest' and engine != 'winograd':
        raise ConfigError(f'--precision {precision} needs --engine winograd')
    shapes = [(batch, *size)] if size else []
    count = image_bands(cfg)
    sides = (None, count, None, None) if dynamic else (batch, count, *(size or ()))
    shapes += DYNAMIC_SHAPES if dynamic else []
    metadata = describe(
        cfg,
        model,
        output=output,
        shape=sides,
        normalize=normalize,
        engine=engine,
        precision=precision,
    )
    fused = deploy(model)
    _, write = FORMATS[to]
    agreements = {}
    with staged(path) as stage:
        for kind in dict.fromkeys(('logits', output)):
            facts = dataclasses.replace(metadata, output=kind)
            write(SegmentorGraph(fused, facts).eval(), stage, facts, opset)
            noise = (smooth_noise(*shape, count) for shape in shapes)
            agreements[kind] = verify(open_backend(stage), fused, noise)
        size_on_disk = megabytes(stage)
    agreement = Agreement(
        agreements['logits'].logit_error, agreements[output].label_error
    )
    return Exported(path, size_on_disk, metadata, agreement, shapes)


def check_path(path: Path, to: str) -> None:
    """Check that a path can hold a file of a format.

    Raises:
        ConfigError: If there is no such format, the suffix is another format's, or the
            path is a folder or a device.
    """
    if to not in FORMATS:
        raise ConfigError(f'--to must be one of {", ".join(FORMATS)}, but got {to!r}')
    suffix, _ = FORMATS[to]
    if path.suffix != suffix:
        raise ConfigError(f'--out must end in {suffix} for {to}, but got {path}')
    if path.exists() and not path.is_file():
        raise ConfigError(f'{path} is not a regular file. Give --out another name')


def require_other_file(path: Path, checkpoint: str) -> None:
    """Check that an export would not overwrite the checkpoint that it is made of.

    Raises:
        ConfigError: If it would.
    """
    for file in (path, path.with_suffix('.bin')) if path.suffix == '.xml' else (path,):
        if file.exists() and os.path.exists(checkpoint) and file.samefile(checkpoint):
            raise ConfigError(f'{file} is the checkpoint itself. Give --out another name')


def megabytes(path: Path) -> float:
    """Return the size of a file, together with the weights beside an ``.xml``."""
    files = [path, path.with_suffix('.bin')] if path.suffix == '.xml' else [path]
    return sum(file.stat().st_size for file in files) / 1e6
