"""Segmentor that runs an exported file where mmseg would run a network.

Preprocessing, sliding a window, removing padding and scaling logits stay mmseg's.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmseg.models import BaseSegmentor, EncoderDecoder
from mmseg.registry import MODELS
from torch import Tensor

from repvgg_runtime.backends import open_backend, shape_text

from ..datasets.checks import check_dataset
from ..engine.load_model import dataset_meta
from ..errors import ConfigError
from .metadata import preprocessing


@MODELS.register_module()
class BackendSegmentor(EncoderDecoder):
    """Segmentor whose network is an exported file.

    Its ``data_preprocessor`` is the preprocessing outside of the file.

    Attributes:
        backend: The opened file.
        run: Function that computes the output of images, by default the backend.
    """

    def __init__(
        self,
        file: str,
        device: str = 'cpu',
        data_preprocessor: Any = None,
        test_cfg: Any = None,
    ) -> None:
        BaseSegmentor.__init__(self, data_preprocessor)
        self.backend = self.run = open_backend(file, device, torch.get_num_threads())
        facts = self.backend.metadata
        self.test_cfg = test_cfg
        self.align_corners, self.out_channels = facts.align_corners, facts.out_channels
        self.num_classes = len(facts.classes) or facts.out_channels
        # mmseg reads the threshold of a single output channel from the head.
        self.decode_head: Any = SimpleNamespace(threshold=facts.threshold)

    def encode_decode(self, inputs: Tensor, batch_img_metas: Any) -> Tensor:
        """Run the file on images, (B, bands, H, W), as it takes them, in float32.

        Returns:
            Logits, (B, classes, H, W); a file of labels gives 1 for the label and else 0.

        Raises:
            ConfigError: If the file takes other images, or its labels would have to be
                resized.
        """
        facts, name = self.backend.metadata, self.backend.path.name
        for meta in batch_img_metas if facts.output == 'labels' else ():
            image, whole = (tuple(meta[key][:2]) for key in ('img_shape', 'ori_shape'))
            if image != whole:
                raise ConfigError(
                    f'{name} gives labels of {shape_text(image)}, but the label maps are '
                    f'{shape_text(whole)} and only logits can be resized. Export with '
                    '--output logits'
                )
        images = inputs.cpu().numpy()
        if facts.normalize:
            given, images = images, images.astype(np.uint8)
            if not np.array_equal(given, images):
                raise ConfigError(
                    f'{name} takes whole numbers from 0 to 255 and normalizes them, but '
                    'the test_pipeline gives other values'
                )
        batch = facts.shape[0] or len(images)
        # Fill the last batch with copies of the last image, and drop their output.
        padded = np.concatenate([images, *[images[-1:]] * (-len(images) % batch)])
        parts = np.split(padded, len(padded) // batch)
        outputs = np.concatenate([self.run(part) for part in parts])
        found = torch.from_numpy(outputs[: len(images)])
        if facts.output == 'labels':
            found = F.one_hot(found.long(), facts.out_channels).permute(0, 3, 1, 2)
        return found.to(inputs)


def use_exported_file(cfg: Config, file: str, device: str = 'cpu') -> None:
    """Make a config test an exported file, and check that they fit each other.

    Raises:
        ConfigError: If the file cannot be opened, or has other classes or other
            preprocessing than the config.
        DataError: If data is missing.
        ExtraError: If the runtime of the file is not installed.
    """
    check_dataset(cfg.test_dataloader.dataset)
    facts, name = open_backend(file, device).metadata, Path(file).name
    classes = list(dataset_meta(cfg).get('classes') or [])
    if classes and facts.classes and classes != facts.classes:
        raise ConfigError(
            f'{name} has the classes {", ".join(facts.classes)}, but the test set of the '
            f'config has {", ".join(classes)}'
        )
    given = preprocessing(cfg, facts.normalize)
    wanted = {key: getattr(facts, key) for key in given}
    if given != wanted:
        raise ConfigError(f'{name} was made for {wanted}, but the config has {given}')
    preprocessor = cfg.model.get('data_preprocessor')
    if facts.normalize:
        if (preprocessor or {}).get('test_cfg'):
            raise ConfigError(
                f'{name} normalizes images, but the config pads them after normalizing. '
                'Export without --normalize'
            )
        preprocessor = dict(type='SegDataPreProcessor')
    test_cfg = cfg.model.get('test_cfg') or dict(mode='whole')
    if facts.output == 'labels' and test_cfg.get('mode') == 'slide':
        raise ConfigError(
            f'{name} gives labels, but the config slides a window and averages logits. '
            'Export with --output logits, or set model.test_cfg.mode=whole with '
            '--cfg-options'
        )
    cfg.model = dict(
        type='BackendSegmentor',
        file=file,
        device=device,
        data_preprocessor=preprocessor,
        test_cfg=test_cfg,
    )
    cfg.load_from, cfg.resume = None, False
    # Hooks are for training; EMAHook would copy the session of the file.
    cfg.custom_hooks = []
