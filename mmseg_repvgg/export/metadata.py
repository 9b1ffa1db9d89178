"""Facts that an exported file stores, so that it can be used without its config."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from .. import __version__
from ..errors import ConfigError

OUTPUTS = ('labels', 'logits')


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Facts about an exported file; each is stored under its name, as JSON.

    Attributes:
        output: ``'labels'``, integers of shape (B, H, W), or ``'logits'``, float32 of
            shape (B, classes, H, W); height and width are those of the image.
        shape: Shape of the images, (B, 3, H, W); None where it is left open.
        normalize: Whether the file normalizes. Its input then is uint8, from 0 to 255;
            otherwise it is float32 and normalized already.
        channels: Order of the channels of the input, ``'BGR'`` or ``'RGB'``.
        mean: Mean that is subtracted from values from 0 to 255, in the order of
            ``network_channels``; None if images are not normalized.
        std: Standard deviation by which they are then divided.
        network_channels: Order of the channels inside the network.
        align_corners: Argument for scaling logits to another size as the model does.
        out_channels: Channels of the logits: the number of classes, or 1 if a
            probability above ``threshold`` means label 1.
        threshold: See ``out_channels``.
        classes: Name of each label.
        palette: Colour of each label, RGB from 0 to 255.
        backbone: Type of the backbone.
        arch: Architecture of the backbone: a name, or the fields of one.
        dilation: Dilation of the backbone.
        quantized: None for a file in float32; otherwise ``layers``, the convolutions in
            int8, ``kept``, those in float32, ``images``, the number of calibration
            images, ``seed``, which chose them, and ``by``, the quantizer.
        version: Version of this package that wrote the file.
    """

    output: str
    shape: tuple[int | None, int, int | None, int | None]
    normalize: bool
    channels: str
    mean: list[float] | None
    std: list[float] | None
    network_channels: str
    align_corners: bool
    out_channels: int
    threshold: float | None
    classes: list[str]
    palette: list[list[int]]
    backbone: str
    arch: Any
    dilation: Any
    quantized: dict[str, Any] | None = None
    version: str = __version__

    @property
    def dtype(self) -> str:
        """Type of the input, by its numpy name."""
        return 'uint8' if self.normalize else 'float32'

    def dump(self) -> dict[str, str]:
        """Return the facts as JSON strings."""
        return {k: json.dumps(v) for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def load(cls, stored: Mapping[str, str], path: object) -> Metadata:
        """Read the strings of :meth:`dump`; other entries are ignored.

        Args:
            stored: The strings.
            path: The file that they are from, for the error.

        Raises:
            ConfigError: If an entry is missing.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in stored]
        if missing:
            raise ConfigError(
                f'{path} lacks the metadata {", ".join(missing)}. Export the model with '
                'tools/export.py'
            )
        facts = {name: json.loads(stored[name]) for name in names}
        return cls(**{**facts, 'shape': tuple(facts['shape'])})


def describe(
    cfg: Config,
    model: Any,
    *,
    output: str,
    shape: tuple[int | None, int, int | None, int | None],
    normalize: bool,
) -> Metadata:
    """Collect the facts about a file to be written.

    Args:
        cfg: The config of the model.
        model: The segmentor, with its ``dataset_meta``.
        output: See :class:`Metadata`, as for the other arguments.
        shape: Shape of the images.
        normalize: Whether the file normalizes.

    Raises:
        ConfigError: If an argument is not allowed, or not with this model.
    """
    if output not in OUTPUTS:
        raise ConfigError(f'output must be one of {OUTPUTS}, but got {output!r}')
    backbone = cfg.model.get('backbone') or {}
    if backbone.get('in_channels', 3) != 3:
        raise ConfigError(
            'only models of images of 3 channels can be exported, but this model takes '
            f'{backbone["in_channels"]}'
        )
    facts = preprocessing(cfg, normalize)
    if normalize and facts['mean'] is None:
        raise ConfigError(
            'the model does not normalize: its data_preprocessor has no mean. Leave out '
            '--normalize'
        )
    classes = list(model.dataset_meta.get('classes') or [])
    if classes and len(classes) != model.num_classes:
        raise ConfigError(
            f'the model has {model.num_classes} classes, but the data set that the '
            f'checkpoint or the config names has {len(classes)}'
        )
    kind = type(model.backbone)
    parameters = inspect.signature(kind).parameters.values()
    options = {**{p.name: p.default for p in parameters}, **backbone}
    return Metadata(
        output=output,
        shape=shape,
        normalize=normalize,
        align_corners=bool(model.align_corners),
        out_channels=model.out_channels,
        threshold=getattr(model.decode_head, 'threshold', None),
        classes=classes,
        palette=[list(color) for color in model.dataset_meta.get('palette') or []],
        backbone=kind.__name__,
        # ResNet calls them by other names.
        arch=_as_json(options.get('arch', options.get('depth'))),
        dilation=_as_json(options.get('dilation', options.get('dilations'))),
        **facts,
    )


def _as_json(value: Any) -> Any:
    """Return a value as it is read back: tuples become lists."""
    return json.loads(json.dumps(value))


def preprocessing(cfg: Config, normalize: bool) -> dict[str, Any]:
    """Return the facts about preprocessing by their names in :class:`Metadata`.

    Args:
        cfg: The config, whose ``data_preprocessor`` is read.
        normalize: Whether the file normalizes.
    """
    given = cfg.model.get('data_preprocessor') or {}
    image = 'RGB' if given.get('rgb_to_bgr') else 'BGR'
    flips = given.get('bgr_to_rgb') or given.get('rgb_to_bgr')
    network = image[::-1] if flips else image
    facts: dict[str, Any] = dict(
        channels=image if normalize else network, network_channels=network
    )
    for name in ('mean', 'std'):
        facts[name] = given.get(name) and [float(value) for value in given[name]]
    return facts
