"""Images of a config's data sets, given to an exported file just as a test gives them.

The images that calibrate a file and those that score it pass through the config's own
pipeline and preprocessor, and its sliding window if it has one.
"""

import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger, print_log
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

from repvgg_runtime.backends import Array
from repvgg_runtime.extras import quiet

from ..datasets.checks import check_loading, leaf_datasets
from ..engine.testing import find_miou
from ..errors import ConfigError
from ..models.wrappers import predict
from .backend_segmentor import use_exported_file


class RealImages:
    """Images of a data set, with a segmentor around an exported file."""

    def __init__(self, cfg: Config, file: str, dataset: dict[str, Any]) -> None:
        cfg = copy.deepcopy(cfg)
        cfg.test_dataloader = dict(dataset=copy.deepcopy(dataset))
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        use_exported_file(cfg, file)
        check_loading(cfg.test_dataloader.dataset)
        self.dataset = DATASETS.build(cfg.test_dataloader.dataset)
        self._model = MODELS.build(cfg.model).eval()

    def predict(
        self, index: int, run: Callable[[Array], Array]
    ) -> tuple[dict[str, Any], Sequence[Any]]:
        """Return the batch of one image and its predictions by ``run``."""
        batch = pseudo_collate([self.dataset[index]])
        self._model.run = run
        return batch, predict(self._model, batch)

    def inputs(self, index: int) -> list[Array]:
        """Return the inputs of the file for one image: the whole, or each window."""
        backend, inputs = self._model.backend, []
        facts = backend.metadata

        def keep(images: Array) -> Array:
            backend.check(images)
            inputs.append(images)
            batch, _, *size = images.shape
            if facts.output == 'labels':
                return np.zeros((batch, *size), np.uint8)
            return np.zeros((batch, facts.out_channels, *size), np.float32)

        self.predict(index, keep)
        return inputs


class CalibrationImages:
    """Images of the training set that go through the pipeline of validation.

    Images that are in the validation set too are left out. If a window slides over an
    image, one window is taken.

    Args:
        cfg: The config, which is not changed.
        file: The exported file to calibrate.
        count: Number of images; all images if there are fewer.
        seed: Seed that chooses the images and the windows.

    Raises:
        ConfigError: If all images are in the validation set too.
        DataError: If data is missing.
    """

    def __init__(self, cfg: Config, file: str, count: int, seed: int = 0) -> None:
        validation = cfg.val_dataloader.dataset
        pipeline = leaf_datasets(validation)[0].pipeline
        training = _with_pipeline(cfg.train_dataloader.dataset, pipeline)
        self._images = RealImages(cfg, file, training)
        scored = set(_paths(DATASETS.build(_with_pipeline(validation, []))))
        paths = _paths(self._images.dataset)
        usable = [index for index, path in enumerate(paths) if path not in scored]
        if not usable:
            raise ConfigError(
                f'all {len(paths)} images of the training set are in the validation set '
                'too, so that none is left to calibrate on'
            )
        if len(usable) < count:
            print_log(
                f'The training set has only {len(usable)} of {count} images to calibrate '
                'on. All are taken',
                'current',
                logging.WARNING,
            )
        order = np.random.default_rng(seed).permutation(usable)
        self._chosen = sorted(order[:count].tolist())
        self._seed = seed

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._chosen)

    def __getitem__(self, position: int) -> Array:
        """Read one image, (1, bands, H, W), as the file takes it."""
        index = self._chosen[position]
        windows = self._images.inputs(index)
        return windows[np.random.default_rng((self._seed, index)).integers(len(windows))]


class Validation(RealImages):
    """Validation set of a config, and its metric; see :class:`RealImages`.

    All files to score take and give the same.
    """

    def __init__(self, cfg: Config, file: str) -> None:
        super().__init__(cfg, file, cfg.val_dataloader.dataset)
        self._metrics = cfg.val_evaluator

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def score(
        self, run: Callable[[Array], Array], indices: Iterable[int] | None = None
    ) -> tuple[float, list[float]]:
        """Return the mIoU in percent, of all images together and of each by itself.

        ``run`` is the file, or a function that computes what a file does.

        Raises:
            ConfigError: If the metrics of the config give no mIoU.
        """
        together, alone = Evaluator(self._metrics), Evaluator(self._metrics)
        each = []
        with quiet(MMLogger.get_current_instance()):  # It logs a table of classes.
            for index in range(len(self)) if indices is None else indices:
                batch, outputs = self.predict(index, run)
                for evaluator in (together, alone):
                    evaluator.dataset_meta = self.dataset.metainfo
                    evaluator.process(data_samples=outputs, data_batch=batch)
                each.append(find_miou(alone.evaluate(1)))
            return find_miou(together.evaluate(len(each))), each


def _with_pipeline(dataset: Any, pipeline: list) -> Any:
    """Return a data set with another pipeline, without repeating or mixing images."""
    changes = dict(pipeline=pipeline, test_mode=True)
    parts = [{**part, **changes} for part in leaf_datasets(dataset)]
    return parts[0] if len(parts) == 1 else dict(type='ConcatDataset', datasets=parts)


def _paths(dataset: Any) -> list[str]:
    return [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
