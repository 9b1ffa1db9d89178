"""Tests that write label maps for the Cityscapes evaluation server.

The server takes an image of label ids, not training ids, for each image, named like it
(``evaluation/evalPixelLevelSemanticLabeling.py`` of
https://github.com/mcordts/cityscapesScripts). mmseg's ``CityscapesMetric`` writes these.
"""

import os
from pathlib import Path

from mmcv.transforms import LoadAnnotations
from mmengine.config import Config

from repvgg_runtime.extras import require

from ..datasets.checks import build_lazily, leaf_datasets
from ..datasets.pipelines import without_steps
from ..datasets.prepare_cityscapes import EXPECTED, label_ids
from ..errors import ConfigError
from ..registry_types import type_name


def use_label_ids(cfg: Config, out: str, split: str) -> None:
    """Set a test up to write files for the server into ``out`` instead of evaluating.

    The test set gets the images of the split and no label maps.

    Raises:
        ConfigError: If the classes are not those of Cityscapes, the folder of the images
            is not one of a split, or ``out`` is not an empty folder.
        ExtraError: If cityscapesscripts is not installed.
    """
    require('cityscapesscripts', 'cityscapes')
    if os.path.exists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise ConfigError(
            f'--out {out} exists and is not an empty folder, but everything in it would '
            'go to the server: choose a new folder'
        )
    dataset = cfg.test_dataloader.dataset
    if leaf_datasets(dataset) != [dataset]:
        raise ConfigError(
            '--format-only takes a single data set of Cityscapes, but the test set is a '
            f'{type_name(dataset)} around others'
        )
    classes = build_lazily(dataset).metainfo['classes']
    if label_ids(classes) is None:
        raise ConfigError(
            '--format-only writes label ids of Cityscapes, whose 19 classes are not the '
            f'{len(classes)} of {type_name(dataset)}: without it, --out writes training '
            'ids'
        )
    folder, name = os.path.split(str(dataset.get('data_prefix', {}).get('img_path', '')))
    if name not in EXPECTED:
        raise ConfigError(
            '--format-only needs a test_dataloader.dataset.data_prefix.img_path that '
            f'ends with one of {", ".join(EXPECTED)}, got {os.path.join(folder, name)!r}'
        )
    dataset.data_prefix = dict(img_path=os.path.join(folder, split))
    dataset.pipeline = without_steps(dataset.pipeline, LoadAnnotations)
    cfg.test_evaluator = dict(
        type='CityscapesMetric', output_dir=out, format_only=True, keep_results=True
    )


def size_warnings(cfg: Config) -> list[str]:
    """Return a warning if the split does not have as many images as Cityscapes."""
    dataset = build_lazily(cfg.test_dataloader.dataset)
    folder = Path(dataset.data_prefix['img_path'])
    images, expected = len(dataset.load_data_list()), EXPECTED[folder.name]
    if images == expected:
        return []
    return [
        f'{folder} holds {images} images, the {folder.name} split of Cityscapes '
        f'{expected}: the server wants a file for each of these'
    ]
