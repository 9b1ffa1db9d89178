"""Collect the facts that an exported file stores, from a config and its model."""

import inspect
import json
import logging
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from repvgg_runtime.metadata import Metadata

from .. import __version__
from ..datasets.pipelines import find_test_pipeline, resizing
from ..datasets.prepare_cityscapes import label_ids
from ..engine.load_model import image_bands
from ..errors import ConfigError

OUTPUTS = ('labels', 'logits')


def describe(
    cfg: Config,
    model: Any,
    *,
    output: str,
    shape: tuple[int | None, int, int | None, int | None],
    normalize: bool,
    engine: str = 'torch',
    precision: str = 'highest',
) -> Metadata:
    """Collect the facts about a file to be written; see :class:`Metadata`.

    Raises:
        ConfigError: If an argument is not allowed, or not with this model.
    """
    if output not in OUTPUTS:
        raise ConfigError(f'output must be one of {OUTPUTS}, but got {output!r}')
    if normalize and image_bands(cfg) != 3:
        raise ConfigError(
            'only images of 3 bands are always uint8, but this model takes '
            f'{image_bands(cfg)}: leave out --normalize'
        )
    if (cfg.model.get('data_preprocessor') or {}).get('test_cfg'):
        print_log(
            'The data_preprocessor pads images in testing (test_cfg), which the exported '
            'file does not: give it images that are padded so',
            'current',
            logging.WARNING,
        )
    backbone = cfg.model.get('backbone') or {}
    facts = preprocessing(cfg, normalize)
    if normalize and facts['mean'] is None:
        raise ConfigError(
            'the model does not normalize: its data_preprocessor has no mean. Leave out '
            '--normalize'
        )
    classes = model.dataset_meta.get('classes') or []
    if classes and len(classes) != model.num_classes:
        raise ConfigError(
            f'the model has {model.num_classes} classes, but the data set that the '
            f'checkpoint or the config names has {len(classes)}'
        )
    parameters = inspect.signature(type(model.backbone)).parameters.values()
    options = {**{p.name: p.default for p in parameters}, **backbone}
    # JSON makes lists of tuples, as they are read back.
    lists = json.dumps(
        dict(
            classes=classes,
            palette=model.dataset_meta.get('palette') or [],
            # ResNet calls them by other names.
            arch=options.get('arch', options.get('depth')),
            dilation=options.get('dilation', options.get('dilations')),
        )
    )
    return Metadata(
        output=output,
        shape=shape,
        normalize=normalize,
        engine=engine,
        precision=precision,
        align_corners=bool(model.align_corners),
        out_channels=model.out_channels,
        threshold=getattr(model.decode_head, 'threshold', None),
        backbone=type(model.backbone).__name__,
        version=__version__,
        **json.loads(lists),
        label_ids=label_ids(classes),
        **resizing(find_test_pipeline(cfg)),
        **facts,
    )


def preprocessing(cfg: Config, normalize: bool) -> dict[str, Any]:
    """Return the facts about preprocessing by their names in :class:`Metadata`."""
    given = cfg.model.get('data_preprocessor') or {}
    image = 'RGB' if given.get('rgb_to_bgr') else 'BGR'
    flips = given.get('bgr_to_rgb') or given.get('rgb_to_bgr')
    # mmseg leaves images of other than three bands as they are.
    network = image[::-1] if flips and image_bands(cfg) == 3 else image
    facts: dict[str, Any] = dict(
        channels=image if normalize else network, network_channels=network
    )
    for name in ('mean', 'std'):
        facts[name] = given.get(name) and [float(value) for value in given[name]]
    return facts
