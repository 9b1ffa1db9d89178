"""Training on a folder of your own images and masks."""

import contextlib
from pathlib import Path
from typing import Any

from mmengine.config import Config
from PIL import Image

from ..datasets.checks import build_lazily, leaf_datasets
from ..datasets.folder_dataset import read_classes
from ..errors import DataError
from ..registry_types import is_a
from .config_checks import class_heads

# Tag of EXIF. From 5 on, the camera was on its side, and loading turns the image.
_ORIENTATION = 0x0112


def use_folder(cfg: Config, folder: str, classes: str) -> None:
    """Make a config train and test on a folder, with the pipelines that it has.

    The folder has images/{train,val} and masks/{train,val}, or images, masks, train.txt
    and val.txt. For the file of classes see
    :func:`~mmseg_repvgg.datasets.folder_dataset.read_classes`.

    Raises:
        ConfigError: If the classes cannot be read.
        DataError: If the folder has neither layout.
    """
    facts = read_classes(Path(classes))
    for split in ('train', 'val', 'test'):
        if not cfg.get(f'{split}_dataloader'):
            continue
        loader = cfg[f'{split}_dataloader']
        given = leaf_datasets(loader.dataset)[0]
        # The other arguments of another data set do not fit a FolderDataset.
        kept = given if is_a(given, 'FolderDataset') else {}
        loader.dataset = {
            **kept,
            'type': 'FolderDataset',
            'data_root': folder,
            'pipeline': given.get('pipeline', []),
            **_files(Path(folder), 'train' if split == 'train' else 'val'),
            **facts,
        }
    for _, head in class_heads(cfg.model):
        head['num_classes'] = len(facts['metainfo']['classes'])


def _files(folder: Path, split: str) -> dict[str, Any]:
    if (folder / 'images' / split).is_dir():
        places = dict(img_path=f'images/{split}', seg_map_path=f'masks/{split}')
        return dict(data_prefix=places)
    if (folder / f'{split}.txt').is_file():
        places = dict(img_path='images', seg_map_path='masks')
        return dict(ann_file=f'{split}.txt', data_prefix=places)
    raise DataError(
        f'{folder} has neither images/{split} nor {split}.txt. Put images into '
        'images/train and images/val and their masks into masks/train and masks/val, or '
        'all into images and masks and list their names in train.txt and val.txt'
    )


def fit_crop(cfg: Config) -> tuple[int, int]:
    """Shrink the crops of a training whose images are all smaller.

    Otherwise most of each crop would be padding.

    Args:
        cfg: It crops the images of a FolderDataset by ``RandomCrop``; changed in place.

    Returns:
        Height and width of the crops: those of the config or, if these are less, those of
        the largest images, rounded up to multiples of 32.
    """
    dataset = cfg.train_dataloader.dataset
    (step,) = (step for step in dataset.pipeline if is_a(step, 'RandomCrop'))
    sizes = []
    for sample in build_lazily(dataset).load_data_list():
        # The checks report broken and too large images.
        wrong = OSError, Image.DecompressionBombError
        with contextlib.suppress(*wrong), Image.open(sample['img_path']) as image:
            turned = image.getexif().get(_ORIENTATION, 1) > 4
            sizes.append(image.size if turned else image.size[::-1])
    if sizes:
        largest = (-(-max(sides) // 32) * 32 for sides in zip(*sizes))
        step.crop_size = tuple(map(min, step.crop_size, largest))
        cfg.model.data_preprocessor.size = step.crop_size
    return step.crop_size


def folder_datasets(cfg: Config) -> list[tuple[str, Any]]:
    """Return the split and the config of each FolderDataset that a training reads."""
    return [
        (split, dataset)
        for split in ('train', 'val')
        if cfg.get(f'{split}_dataloader')
        for dataset in leaf_datasets(cfg[f'{split}_dataloader'].dataset)
        if is_a(dataset, 'FolderDataset')
    ]
