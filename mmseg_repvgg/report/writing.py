"""Write the error report of a segmentor on a data set."""

import errno
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from repvgg_runtime.atomic_write import write_atomically
from repvgg_runtime.painting import default_palette
from repvgg_runtime.progress import Progress

from ..engine.config_checks import check_keys
from ..errors import ConfigError, DataError, WriteError
from .gallery import Gallery, draw_errors, draw_forms
from .numbers import Numbers, collect, read_numbers, require_comparable
from .page import picture_bytes, render
from .segmented import Segmented, segment_both_forms
from .statistics import Statistics

FORM_PICTURES = 3


def choose_split(cfg: Config, split: str) -> None:
    """Make a config test on its ``val`` or its ``test`` split.

    Raises:
        ConfigError: If the config has no such split.
    """
    keys = [f'{split}_{part}' for part in ('dataloader', 'evaluator')]
    check_keys(cfg, keys, f'--split {split}')
    cfg.test_dataloader, cfg.test_evaluator = (cfg[key] for key in keys)


def show_progress(images: Iterator[Segmented], total: int) -> Iterator[Segmented]:
    """Yield images and write to stderr how many of them are done."""
    progress = Progress(total)
    for image in images:
        yield image
        progress.add()
    progress.close()


def _require_writable(path: Path) -> None:
    """Find out before the images are segmented, which may take hours."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, 'it is a folder')
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise WriteError(
            f'the report {path} cannot be written: {error.strerror}. Choose another file'
        ) from error


def write_report(
    model: nn.Module,
    dataloader: Any,
    path: str | Path,
    run: Mapping[str, str],
    *,
    pictures: int = 24,
    against: Sequence[str | Path] = (),
    ignore_index: int = 255,
    engine: str = 'torch',
    precision: str = 'highest',
) -> Numbers:
    """Evaluate a segmentor and write the report, whole or not at all.

    One image at a time is in memory, besides the encoded pictures of the worst ones.

    Args:
        model: The segmentor, in either form. It is left in evaluation mode.
        dataloader: A dataloader of images with truth.
        path: The HTML file.
        run: ``config``, ``checkpoint``, ``split``, ``version`` and ``date``.
        pictures: Number of the worst images that are shown.
        against: Reports of other runs on the same images.
        ignore_index: The label of pixels that do not count.
        engine: What computes the fused form, see :func:`~mmseg_repvgg.deploy`.
        precision: Precision of the Winograd engine, as for ``deploy``.

    Returns:
        The numbers of the report.

    Raises:
        ConfigError: If ``pictures`` is negative, or another report cannot be compared.
        DataError: If an image has no truth, or none has a labelled pixel.
        WriteError: If the file cannot be written.
    """
    if pictures < 0:
        raise ConfigError(f'--images must be at least 0, but got {pictures}')
    if Path(path).resolve() in (Path(other).resolve() for other in against):
        raise ConfigError(
            f'{path} is given by --against and would be overwritten. Give another -o'
        )
    _require_writable(Path(path))
    dataset = dataloader.dataset
    classes = dataset.metainfo['classes']
    palette = dataset.metainfo.get('palette') or default_palette(len(classes))
    paths = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    stems = [Path(other).stem for other in against]
    names = [
        stem if stems.count(stem) == 1 else str(other)
        for stem, other in zip(stems, against)
    ]
    others = [(name, read_numbers(other)) for name, other in zip(names, against)]
    for other, (_, numbers) in zip(against, others):
        require_comparable(classes, paths, numbers, str(other))

    statistics = Statistics(len(classes), ignore_index)
    room = picture_bytes(len(dataset))
    worst = Gallery(pictures, room * 9 // 10, draw_errors(palette, ignore_index))
    differing = Gallery(FORM_PICTURES, room // 10, draw_forms)
    images = segment_both_forms(model, dataloader, engine, precision)
    for index, image in enumerate(show_progress(images, len(dataset))):
        errors = statistics.add(image)
        worst.offer(index, errors.error, image)
        differing.offer(index, errors.differing or 0, image)
    if not statistics.confusion.any():
        raise DataError(
            'no image has a labelled pixel, as in the test split of Cityscapes, whose '
            'truth is not public. Choose a split with labels, such as --split val'
        )
    numbers = collect(statistics, classes, run)
    page = render(numbers, palette, worst.pictures(), differing.pictures(), others)
    write_atomically(path, page)
    return numbers
