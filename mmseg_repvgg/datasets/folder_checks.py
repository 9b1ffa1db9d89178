"""Check every image and mask of a folder before a training, and count the classes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmseg.registry import TRANSFORMS
from prettytable import PrettyTable

from ..errors import DataError, UserError
from ..registry_types import builds
from .checks import build_lazily, checked_pipeline
from .png_files import files_in
from .preparation import in_parallel, shorten
from .transforms import LoadCheckedAnnotations


def check_folders(
    folders: Sequence[tuple[str, Mapping[str, Any]]], show: Callable[[str], None]
) -> None:
    """Read every image and mask, count the classes, and show both.

    Shown, in a text of several lines, are the share of each class in the pixels that
    count and the number of images that hold it, what is wrong with a file, and classes
    that never occur. Each folder is a split and the config of a ``FolderDataset``.

    Raises:
        DataError: If a file is truncated, an image and its mask have different sizes, a
            label or a colour is of no class, a mask has no image, or the masks to train
            on hold a single class.
    """
    table, problems, warnings, single = PrettyTable(), [], [], None
    for split, cfg in folders:
        dataset = build_lazily(cfg)
        classes, samples = dataset.metainfo['classes'], dataset.load_data_list()
        if not table.field_names:
            table.add_column('class', classes, align='l')
        found = in_parallel(_counter(dataset, cfg), samples, f'check {split}')
        wrong = [each for each in found if isinstance(each, str)]
        wrong += _masks_without_image(dataset, samples)
        problems += wrong
        counts = np.array([each for each in found if not isinstance(each, str)])
        counts = counts.reshape(-1, len(classes))
        shares, images = counts.sum(0) / max(counts.sum(), 1), (counts > 0).sum(0)
        columns = {
            f'pixels of {split}': [f'{share:.2%}' for share in shares],
            f'images of {split}': [f'{count} of {len(samples)}' for count in images],
        }
        for title, column in columns.items():
            table.add_column(title, column, align='r')
        present = [name for name, count in zip(classes, images) if count]
        absent = [name for name in classes if name not in present]
        if absent and not wrong:
            warnings.append(f'warning: never in {split}: {", ".join(absent)}')
        if split == 'train' and not wrong and len(present) < 2:
            single = f'one class, {present[0]}' if present else 'ignored pixels only'
    show('\n'.join([table.get_string(), *shorten(problems, 'and'), *warnings]))
    if problems:
        raise DataError(
            f'{len(problems)} images or masks cannot be used; the first: {problems[0]}'
        )
    if single:
        raise DataError(
            f'the masks of train hold {single}. For masks of black and white, '
            'in which 255 would be ignored, give the classes colours, such as '
            'background 0 0 0 and object 255 255 255'
        )


def _counter(dataset: Any, cfg: Mapping[str, Any]) -> Callable[[dict], Any]:
    """Return a function that counts the pixels of each class, or says what is wrong."""
    classes = len(dataset.metainfo['classes'])
    steps = checked_pipeline(cfg.get('pipeline') or [], {})
    loading = (step for step in steps if builds(step, TRANSFORMS, LoadImageFromFile))
    load_image: Any = TRANSFORMS.build(next(loading, dict(type='LoadCheckedImage')))
    load_labels: Any = LoadCheckedAnnotations(classes, dataset.ignore_index)

    def count(sample: dict) -> np.ndarray | str:
        try:
            labels = load_labels(load_image(sample))['gt_seg_map']
        except UserError as error:
            return str(error)
        return np.bincount(labels.ravel(), minlength=classes)[:classes]

    return count


def _masks_without_image(dataset: Any, samples: list[dict]) -> list[str]:
    if dataset.ann_file:
        return []  # A list may leave images out.
    used = {Path(sample['seg_map_path']) for sample in samples}
    folder = Path(dataset.data_prefix['seg_map_path'])
    masks = files_in(folder, dataset.seg_map_suffix).values()
    return [f'the mask {path} has no image' for path in masks if path not in used]
