"""An exported file in the network's place, so that a Runner tests it like any model.

The config's own segmentor stays, and with it all that mmseg does around a network:
preprocessing, sliding a window, taking off padding, scaling logits to the label map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..datasets.checks import check_dataset
from ..engine.load_model import dataset_meta
from ..errors import ConfigError
from .backends import open_backend
from .metadata import Metadata, Preprocessing


@MODELS.register_module()
class ExportedNetwork(nn.Module):
    """A backbone and a head in one: an exported file.

    Args:
        file: See :func:`~mmseg_repvgg.export.backends.open_backend`.
        device: Where it runs.

    Raises:
        ConfigError: If the file cannot be opened.
        ExtraError: If what runs it is not installed.
    """

    def __init__(self, file: str, device: str = 'cpu') -> None:
        super().__init__()
        self.backend = open_backend(file, device)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Run the file.

        Args:
            x: Images, (B, 3, H, W), as the file takes them, in float32.

        Returns:
            Logits, (B, classes, H, W); of a file of labels, 1 for the label and else 0.

        Raises:
            ConfigError: If the file takes other images.
        """
        facts = self.backend.metadata
        images = x.cpu().numpy()
        if facts.normalize:
            whole = images.astype(np.uint8)
            if not np.array_equal(whole, images):
                raise ConfigError(
                    f'{self.backend.path} normalises by itself and takes whole numbers '
                    'from 0 to 255, but the test_pipeline gives others'
                )
            images = whole
        batch = facts.shape[0] or len(x)
        # What is left over is filled up with its last image, whose output is dropped.
        images = np.concatenate([images, *[images[-1:]] * (-len(x) % batch)])
        parts = [images[first : first + batch] for first in range(0, len(images), batch)]
        outputs = np.concatenate([self.backend(part) for part in parts])
        found = torch.from_numpy(outputs[: len(x)])
        if facts.output == 'labels':
            found = F.one_hot(found.long(), facts.out_channels).permute(0, 3, 1, 2)
        return (found.to(x),)


@MODELS.register_module()
class ExportedHead(nn.Module):
    """What a segmentor asks of its head where the network's output is there already.

    Args:
        file: Named in errors.
        metadata: Fields of the file's :class:`~mmseg_repvgg.export.metadata.Metadata`.
    """

    def __init__(self, file: str, metadata: dict[str, Any]) -> None:
        super().__init__()
        facts = Metadata(**metadata)
        self.file, self.output = file, facts.output
        self.align_corners, self.threshold = facts.align_corners, facts.threshold
        self.num_classes = len(facts.classes) or facts.out_channels
        self.out_channels = facts.out_channels

    def predict(
        self, inputs: Sequence[Tensor], batch_img_metas: list[dict], test_cfg: Any
    ) -> Tensor:
        """Hand on what the network gave.

        Raises:
            ConfigError: If these are labels, and would have to be resampled.
        """
        for meta in batch_img_metas if self.output == 'labels' else []:
            image, whole = meta['img_shape'][:2], meta['ori_shape'][:2]
            if tuple(image) != tuple(whole):
                raise ConfigError(
                    f'{self.file} gives labels of images of {image[0]}x{image[1]}, and '
                    f'the label maps are of {whole[0]}x{whole[1]}: mmseg scales logits '
                    'to that size, labels cannot be. Export with --output logits'
                )
        return inputs[0]


def put_in_place(cfg: Config, file: str, device: str = 'cpu') -> None:
    """Have a config test an exported file, and check that they go together.

    Args:
        cfg: From :func:`~mmseg_repvgg.engine.config.load_config`; changed in place.
        file: See :func:`~mmseg_repvgg.export.backends.open_backend`.
        device: Where it runs.

    Raises:
        ConfigError: If the file cannot be opened, or is of other classes or other
            preprocessing than the config.
        DataError: If data is missing.
        ExtraError: If what runs the file is not installed.
    """
    check_dataset(cfg.test_dataloader.dataset)
    facts = open_backend(file, device).metadata
    _require_same_classes(cfg, file, facts)
    preprocessor = _preprocessor(cfg, file, facts)
    test_cfg = cfg.model.get('test_cfg')
    if facts.output == 'labels' and (test_cfg or {}).get('mode') == 'slide':
        raise ConfigError(
            f'{file} gives labels, and the config slides a window and averages logits: '
            'export with --output logits, or take the image whole with --cfg-options '
            'model.test_cfg.mode=whole'
        )
    cfg.model = dict(
        type=cfg.model.type,
        data_preprocessor=preprocessor,
        backbone=dict(type='ExportedNetwork', file=file, device=device),
        decode_head=dict(type='ExportedHead', file=file, metadata=vars(facts)),
        test_cfg=test_cfg,
    )
    cfg.load_from, cfg.resume = None, False
    # They are for training: EMAHook would copy the file's session.
    cfg.custom_hooks = []


def _require_same_classes(cfg: Config, file: str, facts: Metadata) -> None:
    classes = list(dataset_meta(cfg).get('classes') or [])
    if classes and facts.classes and classes != facts.classes:
        raise ConfigError(
            f'{file} knows the classes {", ".join(facts.classes)}, and the test set of '
            f'the config has {", ".join(classes)}'
        )


def _preprocessor(cfg: Config, file: str, facts: Metadata) -> dict[str, Any] | None:
    """What is to be done to images outside of the file."""
    given = cfg.model.get('data_preprocessor')
    done = Preprocessing.of(cfg)
    if facts.normalize:
        if (given or {}).get('test_cfg'):
            raise ConfigError(
                f'{file} normalises by itself, and the config pads images after that. '
                'Export without --normalize'
            )
        return dict(type='SegDataPreProcessor')
    wanted = (facts.network_channels, facts.mean, facts.std)
    if (done.network, done.mean, done.std) != wanted:
        raise ConfigError(
            f'{file} was made for images in {wanted[0]} of mean {wanted[1]} and std '
            f'{wanted[2]}, and the config gives {done.network}, {done.mean} and '
            f'{done.std}'
        )
    return given
