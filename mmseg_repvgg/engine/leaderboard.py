"""Predictions as files that the Cityscapes evaluation server takes.

What it takes is said in ``evaluation/evalPixelLevelSemanticLabeling.py`` of
https://github.com/mcordts/cityscapesScripts: an image of label ids, not training ids, for
each image, whose name begins with its city, sequence and frame.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmseg.registry import METRICS, TRANSFORMS

from ..atomic_write import write_atomically
from ..datasets.cityscapes_labels import IGNORE_INDEX, LABELS
from ..datasets.nested import innermost, lazily
from ..datasets.prepare_cityscapes import EXPECTED
from ..errors import ConfigError
from ..registry_types import kind_of

_CLASSES: Final = sorted(
    (label for label in LABELS if label.train_id != IGNORE_INDEX),
    key=lambda label: label.train_id,
)


@METRICS.register_module()
class LabelIdFiles(BaseMetric):
    """Write predictions as Cityscapes label ids; nothing is evaluated.

    Each file has the name of its image, one channel and 8 bits, and is whole as soon as
    it is there.

    Args:
        output_dir: The folder for the files.

    Raises:
        WriteError: While testing, if a file cannot be written.
    """

    def __init__(self, output_dir: str) -> None:
        super().__init__()
        self.folder = Path(output_dir)
        self._label_ids = np.array([label.id for label in _CLASSES], np.uint8)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Write the predictions of a batch.

        Args:
            data_batch: Not looked at.
            data_samples: Each with ``img_path`` and ``pred_sem_seg``, training ids.
        """
        for sample in data_samples:
            train_ids = sample['pred_sem_seg']['data'].cpu().numpy()
            labels = self._label_ids[train_ids.reshape(train_ids.shape[-2:])]
            path = self.folder / f'{Path(sample["img_path"]).stem}.png'
            write_atomically(path, cv2.imencode('.png', labels)[1].tobytes())
            self.results.append(path.name)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Say how many files there are; there is nothing to measure."""
        print_log(f'{len(results)} label maps are in {self.folder}', 'current')
        return {}


def write_label_ids(cfg: Config, out: str, split: str) -> None:
    """Have a test write files for the server instead of evaluating; labels go unread.

    Args:
        cfg: Its test data set gets the images of the split, changed in place.
        out: The folder for the files.
        split: ``val`` or ``test``.

    Raises:
        ConfigError: If the classes are not those of Cityscapes, the folder of the images
            is not one of a split, or ``out`` has files in it.
    """
    if os.path.exists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise ConfigError(
            f'--out {out} is there and no empty folder: the server would get what is in '
            'it as well. Name a new one'
        )
    dataset = cfg.test_dataloader.dataset
    if innermost(dataset) != [dataset]:
        raise ConfigError(
            '--format-only takes a single data set of Cityscapes, but the test set is a '
            f'{kind_of(dataset)} around others'
        )
    classes = lazily(dataset).metainfo['classes']
    if list(classes) != [label.name for label in _CLASSES]:
        raise ConfigError(
            '--format-only writes label ids of Cityscapes, whose 19 classes are not the '
            f'{len(classes)} of {kind_of(dataset)}: without it, --out writes training ids'
        )
    folder, name = os.path.split(str(dataset.get('data_prefix', {}).get('img_path', '')))
    if name not in EXPECTED:
        raise ConfigError(
            '--format-only needs a test_dataloader.dataset.data_prefix.img_path that '
            f'ends with one of {", ".join(EXPECTED)}, got {os.path.join(folder, name)!r}'
        )
    dataset.data_prefix = dict(img_path=os.path.join(folder, split))
    dataset.pipeline = _without_labels(dataset.pipeline)
    cfg.test_evaluator = dict(type='LabelIdFiles', output_dir=out)


def size_warnings(cfg: Config) -> list[str]:
    """Say where the images are not as many as the server wants files.

    Args:
        cfg: As :func:`write_label_ids` has left it.
    """
    dataset = lazily(cfg.test_dataloader.dataset)
    folder = Path(dataset.data_prefix['img_path'])
    images, expected = len(dataset.load_data_list()), EXPECTED[folder.name]
    if images == expected:
        return []
    return [
        f'{folder} holds {images} images, the {folder.name} split of Cityscapes '
        f'{expected}: the server wants a file for each of these'
    ]


def _without_labels(steps: Sequence[Any]) -> list[Any]:
    """A pipeline, or the alternatives of a TestTimeAug, that loads no label maps."""
    kept: list[Any] = []
    for step in steps:
        if not isinstance(step, Mapping):
            # An alternative that nothing is left of would leave TestTimeAug no view.
            kept.extend([rest] if (rest := _without_labels(step)) else [])
        elif 'transforms' in step:
            kept.append({**step, 'transforms': _without_labels(step['transforms'])})
        elif not issubclass(_class_of(step['type']), LoadAnnotations):
            kept.append(step)
    return kept


def _class_of(kind: Any) -> Any:
    return TRANSFORMS.get(kind) if isinstance(kind, str) else kind
