"""From a segmentor to a file that is there proved, or not at all."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.model import BaseModel

from ..errors import ConfigError, UserError, WriteError
from ..reparam import deploy
from .backends import open_backend
from .formats import FORMATS, MIN_OPSET, Writer
from .graph import SegmentorGraph
from .metadata import Metadata, describe
from .verify import Agreement, smooth_noise, verify

# Where sizes are left open: those that bins, strides and batches of 1 fit and do not
# fit, and the smallest there is.
DYNAMIC_SHAPES = ((1, 97, 193), (3, 64, 128), (2, 91, 67), (1, 1, 1))


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: The file; of OpenVINO, the ``.xml``.
        megabytes: Size of the file; of OpenVINO, of both.
        metadata: What it says about itself.
        logits: How far the logits of this graph are from the model's.
        labels: How far the labels of the file are, if labels are its output.
        shapes: (B, H, W) of the images that were compared.
    """

    path: Path
    megabytes: float
    metadata: Metadata
    logits: Agreement
    labels: Agreement | None
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
) -> Exported:
    """Export the fused form of a segmentor, and compare the file with it.

    Labels hide how close a decision was. So for a file of labels the same graph is
    exported with logits as well, which are compared and not kept.

    Args:
        cfg: The config of the model.
        model: From :func:`~mmseg_repvgg.engine.load_model.load_model`, in any form.
        path: The file to write, with the suffix of the format; replaced if it is there.
        to: One of :data:`~mmseg_repvgg.export.formats.FORMATS`.
        size: Height and width of the images, each at least 1; with ``dynamic``, one more
            to compare at.
        batch: Images at once.
        dynamic: Leave batch, height and width open.
        output: ``'labels'`` or ``'logits'``.
        normalize: Whether the file takes images as they are read, uint8, and normalises
            them.
        opset: Of ONNX, at least 17; None is the exporter's choice.

    Raises:
        ConfigError: If an argument is not allowed, or the model cannot be exported so.
        ExportError: If the file computes something else.
        ExtraError: If a package is missing.
        WriteError: If it cannot be written. In each of these cases nothing new is there.
    """
    path = Path(path)
    write = writer_for(path, to)
    _check_numbers(size, batch, dynamic, opset)
    shapes = [] if size is None else [(batch, *size)]
    sides = (None, 3, None, None) if dynamic else (batch, 3, *(size or ()))
    shapes += DYNAMIC_SHAPES if dynamic else ()
    metadata = describe(cfg, model, output=output, shape=sides, normalize=normalize)
    fused = deploy(model)
    agreements = {}
    with staged(path) as stage:
        for kind in dict.fromkeys(('logits', output)):
            facts = dataclasses.replace(metadata, output=kind)
            graph = SegmentorGraph(fused, facts).eval()
            write(graph, stage, facts, opset)
            agreements[kind] = verify(
                open_backend(stage), fused, (smooth_noise(*shape) for shape in shapes)
            )
        megabytes = sum(file.stat().st_size for file in stage.parent.iterdir()) / 1e6
    return Exported(
        path,
        megabytes,
        metadata,
        agreements['logits'],
        agreements.get('labels'),
        shapes,
    )


def writer_for(path: Path, to: str) -> Writer:
    """What writes a format, to a file whose name fits it.

    Raises:
        ConfigError: If there is no such format, or the name is another format's or that
            of a folder or a device.
    """
    if to not in FORMATS:
        raise ConfigError(f'--to must be one of {", ".join(FORMATS)}, but got {to!r}')
    suffix, write = FORMATS[to]
    if path.suffix != suffix:
        raise ConfigError(f'a file of {to} is named *{suffix}, but --out is {path}')
    if path.exists() and not path.is_file():
        raise ConfigError(f'{path} is not a regular file; give the name of one to write')
    return write


def _check_numbers(
    size: tuple[int, int] | None, batch: int, dynamic: bool, opset: int | None
) -> None:
    if size is None and not dynamic:
        raise ConfigError('give --size H W, or --dynamic to leave batch and size open')
    if min((batch, *(size or ()))) < 1:
        raise ConfigError(
            'the smallest legal image is of 1x1 pixels and the smallest batch 1, but got '
            f'a size of {size} and a batch of {batch}'
        )
    if opset is not None and opset < MIN_OPSET:
        raise ConfigError(f'--opset must be at least {MIN_OPSET}, but got {opset}')


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Have a file, and what belongs beside it, written elsewhere and moved when whole.

    A file is replaced in one step, and a pair as :func:`_put_in_place` does it. The
    folder's name is always the same, so that what a killed run left there is overwritten
    by the next.
    """
    stage = path.with_name(f'.{path.name}.partial')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        yield stage / path.name
        _put_in_place(sorted(stage.iterdir()), path.parent)
    except UserError as error:
        # Who reads it knows nothing of that folder, nor of what else was in it.
        written = re.escape(str(stage / path.stem)) + r'(\.\w+)+'
        raise type(error)(re.sub(written, lambda _: str(path), str(error))) from error
    except OSError as error:
        raise WriteError(
            f'{path} cannot be written: {error.strerror or error}. Make room, or see to '
            'it that the folder may be written'
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _put_in_place(files: list[Path], folder: Path) -> None:
    """Move a file, or a pair of weights and the graph that reads them, into a folder.

    A pair is replaced whole or not at all. The old graph is taken away first and the new
    one comes last, so that no graph ever lies beside the weights of another. If a step
    fails, those before it are undone. If the process is killed in between, there is no
    graph to open; the old files are then beside it, named ``.NAME.old``.
    """
    places = [folder / file.name for file in files]
    old = [place.with_name(f'.{place.name}.old') for place in places]
    moves = list(zip(files, places))
    if len(files) > 1:
        kept = [(place, kept) for place, kept in zip(places, old) if place.exists()]
        moves = kept[::-1] + moves
    for file in files:
        with open(file, 'rb') as written:
            os.fsync(written.fileno())
    done = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((target, source))
    except BaseException:
        for target, source in reversed(done):
            os.replace(target, source)
        raise
    for path in old:
        path.unlink(missing_ok=True)
