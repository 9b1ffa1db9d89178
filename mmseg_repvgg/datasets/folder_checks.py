"""Check every image and mask of a folder before a training, and count the classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from prettytable import PrettyTable

from ..errors import DataError, UserError
from .checks import build_lazily
from .png_files import files_in
from .preparation import in_parallel
from .transforms import LoadCheckedAnnotations, LoadCheckedImage

# A wrong folder would print thousands.
_MAX_PROBLEMS = 10


class FolderReport(NamedTuple):
    """What the checks found.

    Attributes:
        table: For each split, the share of each class in the pixels that count, and the
            number of images that hold it.
        problems: What is wrong with a file.
        warnings: What may be wrong.
    """

    table: str
    problems: list[str]
    warnings: list[str]

    def require_sound(self) -> None:
        """Raise a DataError if a file is wrong."""
        if self.problems:
            raise DataError(
                f'{len(self.problems)} images or masks cannot be used, listed above; the '
                f'first: {self.problems[0]}'
            )

    def __str__(self) -> str:
        """Return the report for a terminal, in several lines."""
        lines = [self.table, *self.problems[:_MAX_PROBLEMS]]
        if len(self.problems) > _MAX_PROBLEMS:
            lines.append(f'and {len(self.problems) - _MAX_PROBLEMS} more')
        return '\n'.join([*lines, *(f'warning: {each}' for each in self.warnings)])


def check_folders(folders: Sequence[tuple[str, Mapping[str, Any]]]) -> FolderReport:
    """Read every image and mask, and count the classes.

    Problems are a file that is truncated, an image and a mask of different sizes, a label
    or a colour of no class, an image without a mask, and a mask without an image. A class
    that never occurs and an image of two splits are warnings.

    Args:
        folders: A split and the config of a :class:`~.folder_dataset.FolderDataset`.
    """
    table = PrettyTable()
    problems, warnings = [], []
    splits: dict[str, str] = {}
    for split, cfg in folders:
        dataset = build_lazily(cfg)
        classes = dataset.metainfo['classes']
        if not splits:
            table.add_column('class', classes, align='l')
        samples = dataset.load_data_list()
        found = in_parallel(_counter(dataset), samples, f'check {split}')
        problems += [each for each in found if isinstance(each, str)]
        problems += _masks_without_image(dataset, samples)
        counts = np.array([each for each in found if not isinstance(each, str)])
        counts = counts.reshape(-1, len(classes))
        shares, images = counts.sum(0) / max(counts.sum(), 1), (counts > 0).sum(0)
        columns = {
            f'pixels of {split}': [f'{share:.2%}' for share in shares],
            f'images of {split}': [f'{count} of {len(samples)}' for count in images],
        }
        for title, column in columns.items():
            table.add_column(title, column, align='r')
        if absent := [name for name, count in zip(classes, images) if not count]:
            warnings.append(f'never in {split}: {", ".join(absent)}')
        paths = [sample['img_path'] for sample in samples]
        both = [path for path in paths if splits.setdefault(path, split) != split]
        if both:
            warnings.append(f'{len(both)} images are in two splits, such as {both[0]}')
    return FolderReport(table.get_string(), problems, warnings)


def _counter(dataset: Any) -> Callable[[dict], Any]:
    """Return a function that counts the pixels of each class, or says what is wrong."""
    classes = len(dataset.metainfo['classes'])
    load_image: Any = LoadCheckedImage()
    load_labels: Any = LoadCheckedAnnotations(classes, dataset.ignore_index)

    def count(sample: dict) -> np.ndarray | str:
        try:
            labels = load_labels(load_image(sample))['gt_seg_map']
        except UserError as error:
            return str(error)
        return np.bincount(labels.ravel(), minlength=256)[:classes]

    return count


def _masks_without_image(dataset: Any, samples: list[dict]) -> list[str]:
    if dataset.ann_file:
        return []  # A list may leave images out.
    used = {Path(sample['seg_map_path']) for sample in samples}
    folder = Path(dataset.data_prefix['seg_map_path'])
    masks = files_in(folder, dataset.seg_map_suffix).values()
    return [f'the mask {path} has no image' for path in masks if path not in used]
