"""Segment images with the fused model of a checkpoint."""

import copy
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose, LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmseg.datasets.transforms import LoadAnnotations, LoadSingleRSImageFromFile
from mmseg.registry import MODELS

from repvgg_runtime.bands import Bands
from repvgg_runtime.extras import quiet
from repvgg_runtime.segmenter import BaseSegmenter, Labels, Prediction

from ..datasets.pipelines import find_test_pipeline, without_steps
from ..datasets.prepare_cityscapes import label_ids
from ..engine.config import load_config
from ..engine.load_model import image_bands, load_model
from ..errors import ConfigError, ImageError
from ..models.comparison import LOGIT_TOLERANCES, check_fused
from ..reparam import deploy, is_deployed
from ..winograd import WinogradConv2d
from . import pretrained

# The transforms that read files, which a Segmenter does itself.
_LOADING = (LoadImageFromFile, LoadSingleRSImageFromFile, LoadAnnotations)


class Segmenter(BaseSegmenter):
    """Segmenter that computes a checkpoint in its fused form.

    Images go through the config's test pipeline and are computed as in a test, so labels
    equal those that an evaluation scores. It may be used by several threads at once.

    Args:
        config: A config: a file, the name of one of ours, or a ``Config``.
        checkpoint: The file, in any layout and form.
        engine: What computes the fused model, see :func:`~mmseg_repvgg.deploy`. ``auto``
            tries for each convolution whether Winograd's algorithm is faster on this CPU.
        precision: Precision of the Winograd engine, as for ``deploy``; default highest.
        device: Device of torch; by default a GPU if there is one, else the CPU.
        tta: Average over the views of the config's ``tta_pipeline``.
        trust: Unpickle whatever the checkpoint holds.
        keep_trained: Keep the training form as well, for :meth:`forms`.

    Attributes:
        model: The fused segmentor.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit the model.
        ConfigError: If the config cannot be read or lacks a test pipeline.
        DeployError: If the fused model does not compute what the checkpoint computes.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Config,
        checkpoint: str | os.PathLike[str],
        *,
        engine: str = 'auto',
        precision: str = 'highest',
        device: str | None = None,
        tta: bool = False,
        trust: bool = False,
        keep_trained: bool = False,
    ) -> None:
        # mmseg warns of settings that are intended, and loading is logged for trainings.
        with quiet(MMLogger.get_current_instance()):
            cfg = (
                copy.deepcopy(config)
                if isinstance(config, Config)
                else load_config(config)
            )
            model = load_model(cfg, checkpoint, trust=trust)
            self._prepare(cfg, model, engine, precision, device, tta, keep_trained)

    def _prepare(
        self,
        cfg: Config,
        model: Any,
        engine: str = 'auto',
        precision: str = 'highest',
        device: str | None = None,
        tta: bool = False,
        keep_trained: bool = False,
    ) -> None:
        self.cfg = cfg
        kept = keep_trained and not is_deployed(model)
        self._trained: Any = model if kept else None
        meta = model.dataset_meta
        classes, palette = meta.get('classes') or [], meta.get('palette') or []
        ids, bands = label_ids(list(classes)), image_bands(cfg)
        super().__init__(classes, palette, ids, bands, model.num_classes)
        chosen = torch.device(device or default_device())
        model = model.to(chosen)
        if chosen.type != 'cpu':  # Engines are for a CPU.
            engine, precision = 'torch', 'highest'
        self.model = deploy(model, engine, precision)
        steps = find_test_pipeline(cfg)
        if not steps:
            raise ConfigError('the config has no test_dataloader and no test_pipeline')
        self._transforms = Compose(without_steps(steps, *_LOADING))
        batch = pseudo_collate([self._input(self._noise(model))])
        check_fused(model, self.model, batch, LOGIT_TOLERANCES[precision])
        self._tta = tta
        if tta:
            if not cfg.get('tta_pipeline') or not cfg.get('tta_model'):
                raise ConfigError('tta needs tta_pipeline and tta_model in the config')
            self._transforms = Compose(without_steps(cfg.tta_pipeline, *_LOADING))
        self._predictor = self._predictor_of(self.model)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != '_lock'}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def _predictor_of(self, model: Any) -> Any:
        # Built on the model, which is not built again.
        return (
            MODELS.build({**self.cfg.tta_model, 'module': model}) if self._tta else model
        )

    def _noise(self, model: Any) -> Bands:
        """Draw an image of noise with the range of the images of the training."""
        random = np.random.default_rng(0)
        shape, preprocessor = (128, 128, self.bands), model.data_preprocessor
        if self.bands == 3 or not hasattr(preprocessor, 'mean'):
            return random.integers(0, 256, shape, np.uint8)
        mean, std = (
            each.flatten().cpu().numpy() for each in (preprocessor.mean, preprocessor.std)
        )
        if len(mean) not in (1, self.bands):
            raise ConfigError(
                f'the data_preprocessor has a mean of {len(mean)} bands, but the '
                f'backbone takes {self.bands}: give a value for each'
            )
        return random.normal(mean, std, shape).astype(np.float32)

    def predict(
        self, images: Sequence[Bands], *, probabilities: bool = False
    ) -> list[Prediction]:
        """Segment images of any sizes; those of one size are computed at once.

        Args:
            images: Each as :meth:`read` returns it.
            probabilities: Whether to return the probabilities as well.

        Raises:
            ConfigError: If probabilities are asked of test-time augmentation.
        """
        if probabilities and self._tta:
            raise ConfigError('test-time augmentation gives no probabilities')
        return self._predict(self._predictor, images, probabilities)

    def forms(self) -> dict[str, Callable[[Bands], Labels]]:
        """Return the forms of the model by their names, each of which labels an image.

        They are the training form, if it was kept; the fused form in torch; and the fused
        form with the Winograd engine, if it computes any convolution here.
        """
        models: dict[str, Any] = {}
        if self._trained is not None:
            models['training form'] = self._trained
        models['fused form'] = deploy(self.model)
        if next(self.model.parameters()).device.type == 'cpu':
            fast = deploy(self.model, 'winograd')
            if any(isinstance(module, WinogradConv2d) for module in fast.modules()):
                models['fused form, Winograd engine'] = fast
        return {name: self._labeller(model) for name, model in models.items()}

    def _labeller(self, model: Any) -> Callable[[Bands], Labels]:
        predictor = self._predictor_of(model)
        return lambda image: self._predict(predictor, [image])[0].labels

    @torch.inference_mode()
    def _predict(
        self, predictor: Any, images: Sequence[Bands], probabilities: bool = False
    ) -> list[Prediction]:
        inputs = [self._input(image) for image in images]
        found: list[Any] = [None] * len(images)
        shapes = [_shape(each) for each in inputs]
        for shape in dict.fromkeys(shapes):
            same = [i for i, each in enumerate(shapes) if each == shape]
            batch = pseudo_collate([inputs[i] for i in same])
            # Two batches at once would need twice the memory and share the same cores.
            with self._lock:
                samples = predictor.test_step(batch)
            for index, sample in zip(same, samples):
                found[index] = self._prediction(sample, probabilities)
        return found

    def _input(self, image: Bands) -> Any:
        size = image.shape[:2]
        if image.dtype != np.uint8:
            image = image.astype(np.float32)
        sample = dict(img=image, img_shape=size, ori_shape=size, img_path=None)
        try:
            return self._transforms(dict(sample, seg_fields=[]))
        except cv2.error as error:
            raise ImageError(
                f'an image of {size[0]}x{size[1]} pixels cannot be resized as the test '
                f'pipeline does: {error.err}'
            ) from error

    def _prediction(self, sample: Any, probabilities: bool) -> Prediction:
        found = sample.pred_sem_seg.data[0]
        labels = found.cpu().numpy().astype(self.label_type)
        if not probabilities:
            return Prediction(labels)
        scores = sample.seg_logits.data.float()
        # mmseg's segmentors return the probability of a single class already.
        each = scores.softmax(0) if len(scores) > 1 else torch.cat([1 - scores, scores])
        return Prediction(labels, each.cpu().numpy())

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        metrics: dict[str, float] | None = None,
        data: str | None = None,
        command: str | None = None,
        licence: str | None = None,
    ) -> Path:
        """Write the fused model into a folder, to be read by :meth:`from_pretrained`.

        The files are ``model.safetensors``, ``config.json`` (the resolved config and the
        classes; nothing in it can run) and ``README.md``, a model card.

        Args:
            folder: The folder; it is made if it is missing.
            metrics: Measured metrics for the card, such as ``{'mIoU': 66.6}``.
            data: What it was trained on, for the card; by default the data set's type.
            command: The command that trained it, for the card.
            licence: Licence of the weights, for the card.

        Returns:
            The folder.

        Raises:
            ExtraError: If safetensors is not installed.
            WriteError: If a file cannot be written.
        """
        return pretrained.save(
            Path(folder),
            self.cfg,
            deploy(self.model),
            dict(classes=self.classes, palette=self.palette),
            dict(metrics=metrics, data=data, command=command, licence=licence),
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        engine: str = 'auto',
        precision: str = 'highest',
        device: str | None = None,
        tta: bool = False,
        trust: bool = False,
        revision: str | None = None,
    ) -> 'Segmenter':
        """Read what :meth:`save_pretrained` wrote.

        No code of the folder runs: its config may only name classes of torch, mmcv,
        mmengine, mmseg and this package.

        Args:
            source: The folder, or the id of a model on the Hugging Face hub.
            engine: See the class, also for the next three.
            precision: Precision of the Winograd engine.
            device: Device of torch.
            tta: Average over the views of the config's ``tta_pipeline``.
            trust: Build classes of any package that the config names.
            revision: Branch, tag or commit on the hub.

        Raises:
            CheckpointError: If the folder is incomplete or damaged.
            ConfigError: If its config names another class.
            ExtraError: If huggingface_hub or safetensors is needed but not installed.
        """
        segmenter = cls.__new__(cls)
        with quiet(MMLogger.get_current_instance()):
            cfg, model = pretrained.load(source, trust=trust, revision=revision)
            segmenter._prepare(cfg, model, engine, precision, device, tta)
        return segmenter

    def push_to_hub(self, repo_id: str, *, private: bool = False, **card: Any) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hugging Face hub.

        Args:
            repo_id: Id of the repository, ``USER/NAME``; it is made if it is missing.
            private: Whether a new repository is private.
            **card: Arguments of :meth:`save_pretrained` for the model card.

        Returns:
            The address of the commit.

        Raises:
            ExtraError: If huggingface_hub is not installed.
        """
        return pretrained.push(
            repo_id, private, lambda folder: self.save_pretrained(folder, **card)
        )


def default_device() -> str:
    """Return the GPU of this process, if there is one, or the CPU."""
    if not torch.cuda.is_available():
        return 'cpu'
    return f'cuda:{os.environ.get("LOCAL_RANK", 0)}'


def _shape(data: dict[str, Any]) -> Any:
    inputs = data['inputs']
    if isinstance(inputs, list):
        return tuple(tuple(view.shape) for view in inputs)
    return tuple(inputs.shape)
