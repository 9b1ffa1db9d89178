"""Real images, given to an exported file just as it would be given them in a test.

Both what calibrates a file and what scores it passes through the config's own pipeline,
preprocessor and segmentor, with its sliding window if it has one.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger, print_log
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

from ..datasets.checked_loading import check_loading
from ..datasets.checks import check_dataset
from ..datasets.nested import innermost
from ..errors import ConfigError
from ..models.wrappers import predict
from .backends import Array, Backend, open_backend
from .evaluate import put_in_place


class StandIn:
    """In the place of a backend: its facts, and another way to compute.

    Args:
        backend: Whose facts these are.
        run: Images in, labels or logits out.
    """

    def __init__(self, backend: Backend, run: Callable[[Array], Array]) -> None:
        self.path, self.metadata = backend.path, backend.metadata
        self._run = run

    def __call__(self, images: Array) -> Array:
        """Compute."""
        return self._run(images)


class RealImages:
    """A data set and the segmentor of a config, around an exported file.

    Args:
        cfg: The config; stays as it is.
        file: The file, of which what it takes and gives is read.
        dataset: Config of the data set.

    Raises:
        ConfigError: If config and file do not go together.
        DataError: If data is missing.
    """

    def __init__(self, cfg: Config, file: str, dataset: dict[str, Any]) -> None:
        cfg = copy.deepcopy(cfg)
        cfg.test_dataloader = dict(dataset=dataset)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        put_in_place(cfg, file)
        check_loading(cfg.test_dataloader.dataset)
        self.backend = open_backend(file)
        self.dataset = DATASETS.build(cfg.test_dataloader.dataset)
        self._model = MODELS.build(cfg.model).eval()

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.dataset)

    def predict(
        self, index: int, backend: Callable[[Array], Array]
    ) -> tuple[dict[str, Any], Sequence[Any]]:
        """Take one image through everything.

        Args:
            index: Of the image in the data set.
            backend: What computes, a :class:`Backend` or a :class:`StandIn` of one.

        Returns:
            The batch of one image, and its predictions.
        """
        batch = pseudo_collate([self.dataset[index]])
        self._model.backbone.backend = backend
        return batch, predict(self._model, batch)

    def seen(self, index: int) -> list[Array]:
        """What the file is given of one image: all of it, or window after window.

        Raises:
            ConfigError: If it is not what the file takes.
        """
        facts, given = self.backend.metadata, []

        def keep(images: Array) -> Array:
            self.backend.check(images)
            given.append(images)
            batch, size = len(images), images.shape[2:]
            if facts.output == 'labels':
                return np.zeros((batch, *size), np.uint8)
            return np.zeros((batch, facts.out_channels, *size), np.float32)

        self.predict(index, StandIn(self.backend, keep))
        return given


class CalibrationImages:
    """Images of the training set, without what training does to them.

    They go through the pipeline of validation. None is of the validation set. Of an
    image over which a window slides, one window is taken.

    Args:
        cfg: The config.
        file: The exported file that is to be given them.
        count: How many; all there are, if there are fewer.
        seed: Of which images and which windows.

    Raises:
        ConfigError: If all images are in the validation set too.
        DataError: If data is missing.
    """

    def __init__(self, cfg: Config, file: str, count: int, seed: int = 0) -> None:
        training, validation = (
            _dataset(cfg, name) for name in ('train_dataloader', 'val_dataloader')
        )
        pipeline = innermost(validation)[0].pipeline
        self._images = RealImages(cfg, file, _bare(training, pipeline))
        scored = set(_paths(DATASETS.build(_bare(validation, []))))
        paths = _paths(self._images.dataset)
        usable = [index for index, path in enumerate(paths) if path not in scored]
        if not usable:
            raise ConfigError(
                f'there is no image to calibrate on: all {len(paths)} of the training '
                'set are in the validation set too'
            )
        if len(usable) < count:
            print_log(
                f'{count} images to calibrate on were asked for: the training set has '
                f'{len(usable)}, all of which are taken',
                'current',
                logging.WARNING,
            )
        order = np.random.default_rng(seed).permutation(len(usable))
        self._chosen = [usable[index] for index in sorted(order[:count])]
        self._seed = seed

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._chosen)

    def __getitem__(self, position: int) -> Array:
        """Read one image: (1, 3, H, W), as the file takes it."""
        index = self._chosen[position]
        windows = self._images.seen(index)
        return windows[np.random.default_rng((self._seed, index)).integers(len(windows))]


class Validation:
    """The validation set of a config, and its metric.

    Args:
        cfg: The config.
        file: An exported file; every other that is scored takes and gives the same.

    Raises:
        ConfigError: If config and file do not go together.
    """

    def __init__(self, cfg: Config, file: str) -> None:
        self._images = RealImages(cfg, file, _dataset(cfg, 'val_dataloader'))
        self._metrics = cfg.val_evaluator

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._images)

    def sample(self) -> Array:
        """The first image, as the file takes it: (1, 3, H, W)."""
        return self._images.seen(0)[0]

    def score(
        self, backend: Callable[[Array], Array], indices: Iterable[int] | None = None
    ) -> tuple[float, list[float]]:
        """Score by mmseg's own metric.

        Args:
            backend: What computes.
            indices: Of the images to score on; all by default.

        Returns:
            The mIoU in percent, of all images together and of each by itself.

        Raises:
            ConfigError: If the metrics of the config give no mIoU.
        """
        # Its table of classes.
        with quiet(MMLogger.get_current_instance()):
            together, each = self._evaluator(), []
            for index in range(len(self)) if indices is None else indices:
                batch, outputs = self._images.predict(index, backend)
                alone = self._evaluator()
                for evaluator in (together, alone):
                    evaluator.process(data_samples=outputs, data_batch=batch)
                each.append(_miou(alone.evaluate(1)))
            return _miou(together.evaluate(len(each))), each

    def _evaluator(self) -> Evaluator:
        evaluator = Evaluator(copy.deepcopy(self._metrics))
        evaluator.dataset_meta = self._images.dataset.metainfo
        return evaluator


def _miou(metrics: dict[str, float]) -> float:
    for name, value in metrics.items():
        if name.split('/')[-1] == 'mIoU':
            return float(value)
    raise ConfigError(
        f'the val_evaluator gives no mIoU, but {", ".join(metrics) or "nothing"}'
    )


def check_sets(cfg: Config) -> None:
    """Check that training and validation set are there, before anything is made.

    Raises:
        ConfigError: If the config has none, or no metric of validation.
        DataError: If data is missing.
    """
    for name in ('train_dataloader', 'val_dataloader'):
        check_dataset(_dataset(cfg, name))
    if not cfg.get('val_evaluator'):
        raise ConfigError('the config has no val_evaluator, which is to give the mIoU')


def _dataset(cfg: Config, name: str) -> Any:
    loader = cfg.get(name)
    if not loader:
        raise ConfigError(f'the config has no {name}, whose images are needed')
    return copy.deepcopy(loader.dataset)


def _bare(dataset: Any, pipeline: list) -> Any:
    """Return a data set with another pipeline, without repeating or mixing images."""
    changes = dict(pipeline=pipeline, test_mode=True)
    parts = [{**part, **changes} for part in innermost(dataset)]
    return parts[0] if len(parts) == 1 else dict(type='ConcatDataset', datasets=parts)


def _paths(dataset: Any) -> list[str]:
    return [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]


@contextmanager
def quiet(logger: logging.Logger) -> Iterator[None]:
    """Let a logger say nothing but errors."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
