"""What an exported file says about itself, so that it can be used without its config."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from .. import __version__
from ..errors import ConfigError
from ..models import RepVGG
from ..registry_types import is_a, type_name

OUTPUTS = ('labels', 'logits')


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The facts of an exported file; each is stored under its name, as JSON.

    Attributes:
        output: ``'labels'``, integers of shape (B, H, W), or ``'logits'``, float32 of
            shape (B, classes, H, W), both of the height and width of the image.
        shape: Of the images, (B, 3, H, W), None where it is left open.
        normalize: Whether the file normalises. Its input then is uint8, from 0 to 255;
            else it is float32 and normalised already.
        channels: Order of the input's channels, ``'BGR'`` or ``'RGB'``.
        mean: What normalising subtracts from numbers from 0 to 255, in the order of
            ``network_channels``; None if nothing is normalised.
        std: What it then divides by.
        network_channels: Order in which the network itself has the channels.
        align_corners: How logits are to be scaled to another size, as the model does.
        out_channels: Channels of logits: the number of classes; or 1, of which a
            probability above ``threshold`` makes label 1.
        threshold: See ``out_channels``.
        classes: Name of each label.
        palette: Colour of each label, RGB from 0 to 255.
        backbone: Type of the backbone.
        arch: Its architecture: a name, or the fields of one.
        dilation: Its dilation.
        quantized: None for a file in float32; else ``layers``, the convolutions in int8,
            ``kept``, those in float32, ``images``, how many it was calibrated on,
            ``seed``, of their choice, and ``by``, what made it.
        version: Of this package, which wrote the file.
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
        """Type of the input's numbers, by its numpy name."""
        return 'uint8' if self.normalize else 'float32'

    @classmethod
    def names(cls) -> list[str]:
        """Under which the facts are stored."""
        return [field.name for field in dataclasses.fields(cls)]

    def dump(self) -> dict[str, str]:
        """The facts as strings of JSON."""
        return {k: json.dumps(v) for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def load(cls, stored: Mapping[str, str], path: object) -> Metadata:
        """Read back what :meth:`dump` gave; what else there is, is passed over.

        Args:
            stored: The strings.
            path: The file they are from, for the error.

        Raises:
            ConfigError: If one is missing.
        """
        missing = [name for name in cls.names() if name not in stored]
        if missing:
            raise ConfigError(
                f'{path} does not say its {", ".join(missing)}: it was not written by '
                'tools/export.py. Export it with that'
            )
        facts = {name: json.loads(stored[name]) for name in cls.names()}
        return cls(**{**facts, 'shape': tuple(facts['shape'])})


def describe(
    cfg: Config,
    model: Any,
    *,
    output: str,
    shape: tuple[int | None, int, int | None, int | None],
    normalize: bool,
) -> Metadata:
    """Collect the facts of a file to be written.

    Args:
        cfg: The config of the model.
        model: The segmentor, with its ``dataset_meta``.
        output: See :class:`Metadata`.
        shape: See :class:`Metadata`.
        normalize: See :class:`Metadata`.

    Raises:
        ConfigError: If an argument is not allowed, or not with this model.
    """
    if output not in OUTPUTS:
        raise ConfigError(f'output must be one of {OUTPUTS}, but got {output!r}')
    backbone = cfg.model.get('backbone') or {}
    if backbone.get('in_channels', 3) != 3:
        raise ConfigError(
            f'only models of images of 3 channels are exported, this one takes '
            f'{backbone["in_channels"]}'
        )
    preprocessing = Preprocessing.of(cfg)
    if normalize and preprocessing.mean is None:
        raise ConfigError(
            'the model does not normalise: its data_preprocessor has no mean. Leave out '
            '--normalize'
        )
    classes = list(model.dataset_meta.get('classes') or [])
    if classes and len(classes) != model.num_classes:
        raise ConfigError(
            f'the model has {model.num_classes} classes, but the data set that the '
            f'checkpoint or the config names has {len(classes)}'
        )
    arch, dilation = _layout(backbone)
    return Metadata(
        output=output,
        shape=shape,
        normalize=normalize,
        channels=preprocessing.image if normalize else preprocessing.network,
        mean=preprocessing.mean,
        std=preprocessing.std,
        network_channels=preprocessing.network,
        align_corners=bool(model.align_corners),
        out_channels=model.out_channels,
        threshold=getattr(model.decode_head, 'threshold', None),
        classes=classes,
        palette=[list(color) for color in model.dataset_meta.get('palette') or []],
        backbone=type_name(backbone),
        arch=arch,
        dilation=dilation,
    )


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a config does to an image before the network has it.

    Attributes:
        image: Order of the channels of an image as it is read, ``'BGR'`` or ``'RGB'``.
        network: Their order in the network.
        mean: What is subtracted, in the order of the network; None for nothing.
        std: What it is then divided by.
    """

    image: str
    network: str
    mean: list[float] | None
    std: list[float] | None

    @classmethod
    def of(cls, cfg: Config) -> Preprocessing:
        """Read it from the ``data_preprocessor``."""
        given = cfg.model.get('data_preprocessor') or {}
        image = 'RGB' if given.get('rgb_to_bgr') else 'BGR'
        flips = given.get('bgr_to_rgb') or given.get('rgb_to_bgr')
        mean, std = (
            None if given.get(name) is None else [float(value) for value in given[name]]
            for name in ('mean', 'std')
        )
        return cls(image, image[::-1] if flips else image, mean, std)


def _layout(backbone: Mapping[str, Any]) -> tuple[Any, Any]:
    """Architecture and dilation; what a config leaves out is RepVGG's default."""
    if not is_a(backbone, 'RepVGG'):
        arch, dilation = backbone.get('depth'), backbone.get('dilations')
    else:
        defaults = inspect.signature(RepVGG).parameters
        arch, dilation = (
            backbone.get(name, defaults[name].default) for name in ('arch', 'dilation')
        )
    # As they will be read: tuples become lists.
    return json.loads(json.dumps(arch)), json.loads(json.dumps(dilation))
