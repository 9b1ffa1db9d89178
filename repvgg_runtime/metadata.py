"""Facts that an exported file stores, so that it can be used without its config."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from .errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Facts about an exported file; each is stored under its name, as JSON.

    Attributes:
        output: ``'labels'``, integers of shape (B, H, W), or ``'logits'``, float32 of
            shape (B, classes, H, W); height and width are those of the image.
        shape: Shape of the images, (B, bands, H, W); None where it is left open.
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
            images, ``seed``, which chose them, ``method``, how weights are rounded, and
            ``by``, the quantizer.
        version: Version of this package that wrote the file.
        scale: Width and height to which the config's test pipeline resizes images; None
            if it keeps their size.
        keep_ratio: Whether it keeps their aspect ratio; they then fit inside ``scale``.
        label_ids: The data set's own id of each label, where these differ.
        engine: What computes the convolutions: ``'torch'``, the runtime itself;
            ``'phases'``, the same, without dilation; ``'winograd'``, an extension of it.
        precision: Precision of the Winograd engine, ``'highest'``, ``'high'`` or
            ``'medium'``.
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
    version: str
    quantized: dict[str, Any] | None = None
    scale: list[int] | None = None
    keep_ratio: bool = True
    label_ids: list[int] | None = None
    engine: str = 'torch'
    precision: str = 'highest'

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
            ConfigError: If an entry without a default is missing.
        """
        fields = dataclasses.fields(cls)
        names = [field.name for field in fields if field.name in stored]
        missing = [
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.name not in stored
        ]
        if missing:
            raise ConfigError(
                f'{path} lacks the metadata {", ".join(missing)}. Export the model with '
                'mmseg-repvgg export'
            )
        facts = {name: json.loads(stored[name]) for name in names}
        return cls(**{**facts, 'shape': tuple(facts['shape'])})
