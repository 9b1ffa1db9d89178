"""Segmenters: from images to label maps, whatever runs the network."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .backends import open_backend
from .bands import Bands, as_bands, decode_bands, shown
from .errors import ConfigError
from .images import AnyImage, Pixels, as_pixels, decode_image
from .painting import blend, default_palette
from .resizing import resize_image, resize_labels, resize_logits, scaled_size

_log = logging.getLogger(__name__)

Labels = npt.NDArray[np.uint8 | np.uint16]
"""A label map of shape (H, W); of 16 bits if there are more than 256 classes."""

Probabilities = npt.NDArray[np.float32]
"""Array of shape (classes, H, W), from 0 to 1, whose sum is 1 at each pixel."""


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image.

    Attributes:
        labels: Index of the class of each pixel, of the image's own size.
        probabilities: Probability of each class; None if they were not asked for.
    """

    labels: Labels
    probabilities: Probabilities | None = None


class BaseSegmenter(ABC):
    """Base class of segmenters.

    Attributes:
        classes: Name of each label.
        palette: Colour of each label, RGB from 0 to 255.
        label_ids: The data set's own id of each label, where these differ.
        bands: Number of bands of the images. With other than three, images are TIFF files
            or arrays (H, W, bands), and are computed without any change.
    """

    def __init__(
        self,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]],
        label_ids: Sequence[int] | None,
        bands: int = 3,
        channels: int = 2,
    ) -> None:
        self.bands = bands
        # A single output channel tells class 1 from the background, label 0.
        count = max(channels, 2)
        unnamed = range(len(classes), count)
        self.classes = [*classes, *(f'class {index}' for index in unnamed)]
        colors = [*palette, *default_palette(count)[len(palette) :]]
        self.palette = [list(color) for color in colors]
        self.label_ids = label_ids and list(label_ids)

    @property
    def label_type(self) -> type[np.uint8 | np.uint16]:
        """Type of the labels."""
        return np.uint8 if len(self.classes) <= 256 else np.uint16

    def read(self, image: AnyImage) -> Bands:
        """Return an image as :meth:`predict` takes it.

        Args:
            image: As for calling the segmenter.

        Raises:
            DataError: If a file does not exist.
            ExtraError: If it is a TIFF file for other than three bands, and tifffile is
                not installed.
            ImageError: If it cannot be read, or has another number of bands.
        """
        return as_pixels(image) if self.bands == 3 else as_bands(image, self.bands)

    def decode(self, data: bytes, path: str) -> Bands:
        """Decode the content of an image file as :meth:`read` reads the file.

        Args:
            data: The content.
            path: Name of the file, for errors.
        """
        if self.bands == 3:
            return decode_image(data, path)
        return decode_bands(data, path, self.bands)

    @overload
    def __call__(self, image: AnyImage) -> Labels: ...

    @overload
    def __call__(self, image: list[Any]) -> list[Labels]: ...

    def __call__(self, image: Any) -> Any:
        """Segment an image, or a list of images at once.

        Args:
            image: A path, a Pillow image, or an array (H, W, 3), BGR uint8; or a list. A
                model of other than three bands takes what :func:`~.bands.as_bands` takes.

        Returns:
            Labels of shape (H, W), of the image's own size, uint8, or uint16 for more
            than 256 classes; or a list of these.

        Raises:
            DataError: If a file does not exist.
            ImageError: If an image cannot be read.
        """
        if _is_list(image):
            return [each.labels for each in self.predict(list(map(self.read, image)))]
        return self.predict([self.read(image)])[0].labels

    @overload
    def probabilities(self, image: AnyImage) -> Probabilities: ...

    @overload
    def probabilities(self, image: list[Any]) -> list[Probabilities]: ...

    def probabilities(self, image: Any) -> Any:
        """Return the probability of each class at each pixel.

        Args:
            image: As for calling the segmenter.

        Returns:
            Shape (classes, H, W), float32; or a list of these.
        """
        images = image if _is_list(image) else [image]
        found = self.predict(list(map(self.read, images)), probabilities=True)
        each = [prediction.probabilities for prediction in found]
        return each if _is_list(image) else each[0]

    @overload
    def overlay(self, image: AnyImage, opacity: float = 0.5) -> Pixels: ...

    @overload
    def overlay(self, image: list[Any], opacity: float = 0.5) -> list[Pixels]: ...

    def overlay(self, image: Any, opacity: float = 0.5) -> Any:
        """Paint the labels over an image.

        Args:
            image: As for calling the segmenter.
            opacity: Opacity of the colours, from 0 to 1.

        Returns:
            Shape (H, W, 3), BGR uint8; or a list of these.
        """
        images = list(map(self.read, image if _is_list(image) else [image]))
        each = [
            blend(shown(pixels), found.labels, self.palette, opacity)
            for pixels, found in zip(images, self.predict(images))
        ]
        return each if _is_list(image) else each[0]

    @abstractmethod
    def predict(
        self, images: Sequence[Bands], *, probabilities: bool = False
    ) -> list[Prediction]:
        """Segment images of any sizes; those of one size are computed at once.

        Args:
            images: Each as :meth:`read` returns it.
            probabilities: Whether to return the probabilities as well.
        """

    def forms(self) -> dict[str, Callable[[Bands], Labels]]:
        """Return the forms of the model by their names, each of which labels an image.

        The first is the one that the others should agree with. A segmenter has a single
        form unless it overrides this.
        """
        return {'as loaded': lambda image: self.predict([image])[0].labels}


class ExportedSegmenter(BaseSegmenter):
    """Segmenter that runs an exported file; needs neither torch nor mmseg.

    An image is resized as the config's test pipeline resizes it, or to the size that the
    file takes. Logits are scaled back to the image before the label is chosen; labels
    are scaled by the nearest neighbour.

    Args:
        file: See :func:`~repvgg_runtime.backends.open_backend`.
        device: Device to run it on.
        threads: Number of threads on a CPU.

    Raises:
        ConfigError: If the file cannot be opened.
        ExtraError: If its runtime is not installed.
    """

    def __init__(
        self, file: str | Path, device: str = 'cpu', threads: int | None = None
    ) -> None:
        self.backend = open_backend(file, device, threads)
        self._warned = False
        self.metadata = facts = self.backend.metadata
        named = facts.classes, facts.palette, facts.label_ids
        super().__init__(*named, facts.shape[1], facts.out_channels)

    def forms(self) -> dict[str, Callable[[Bands], Labels]]:
        """Return the only form, by the name of the file."""
        return {self.backend.path.name: lambda image: self.predict([image])[0].labels}

    def predict(
        self, images: Sequence[Bands], *, probabilities: bool = False
    ) -> list[Prediction]:
        """Segment images; see :meth:`BaseSegmenter.predict`.

        Raises:
            ConfigError: If probabilities are asked of a file of labels.
        """
        facts = self.metadata
        if probabilities and facts.output == 'labels':
            raise ConfigError(
                f'{self.backend.path.name} gives labels only: export it with '
                '--output logits to have probabilities'
            )
        inputs = [self._input(image) for image in images]
        outputs: list[Any] = [None] * len(images)
        for shape in dict.fromkeys(each.shape for each in inputs):
            same = [i for i, each in enumerate(inputs) if each.shape == shape]
            batch = facts.shape[0] or len(same)
            for start in range(0, len(same), batch):
                part = same[start : start + batch]
                # The last image fills up a batch of fixed size.
                filled = part + part[-1:] * (batch - len(part) if facts.shape[0] else 0)
                found = self.backend(np.stack([inputs[i] for i in filled]))
                for index, output in zip(part, found):
                    outputs[index] = output
        return [
            self._prediction(output, image.shape[:2], probabilities)
            for output, image in zip(outputs, images)
        ]

    def _input(self, image: Bands) -> npt.NDArray[Any]:
        """Return an image as the file takes it, (bands, h, w)."""
        facts, size = self.metadata, image.shape[:2]
        height, width = facts.shape[2:]
        if facts.scale is not None:
            size = scaled_size(size, (facts.scale[0], facts.scale[1]), facts.keep_ratio)
        if image.dtype != np.uint8:
            image = image.astype(np.float32)
        if height and width and not _have_one_shape((height, width), size):
            self._warn_of_distortion(height, width)
        image = resize_image(image, (height or size[0], width or size[1]))
        if facts.channels == 'RGB':
            image = image[:, :, ::-1]
        values: npt.NDArray[Any] = image.transpose(2, 0, 1)
        if facts.normalize:
            return values
        values = values.astype(np.float32)
        if facts.mean is not None and facts.std is not None:
            mean, std = (
                np.array(each, np.float32).reshape(-1, 1, 1)
                for each in (facts.mean, facts.std)
            )
            values = (values - mean) / std
        return values

    def _warn_of_distortion(self, height: int, width: int) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                '%s takes images of %dx%d only, so images of another shape are '
                'distorted. Export it with --dynamic, which keeps their shape',
                self.backend.path.name,
                height,
                width,
            )

    def _prediction(
        self, output: npt.NDArray[Any], size: tuple[int, int], probabilities: bool
    ) -> Prediction:
        facts = self.metadata
        if facts.output == 'labels':
            return Prediction(resize_labels(output.astype(self.label_type), size))
        logits = resize_logits(output, size, facts.align_corners)
        if facts.out_channels == 1:
            found = 1 / (1 + np.exp(-logits[0]))
            labels = (found > facts.threshold).astype(self.label_type)
            both = np.stack([1 - found, found]) if probabilities else None
            return Prediction(labels, both)
        labels = logits.argmax(0).astype(self.label_type)
        return Prediction(labels, _softmax(logits) if probabilities else None)


def _have_one_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two sizes have the same aspect ratio, to 2 %."""
    ratio = one[0] * other[1] / (one[1] * other[0])
    return 0.98 < ratio < 1.02


def _softmax(logits: Probabilities) -> Probabilities:
    exponents = np.exp(logits - logits.max(0))
    return exponents / exponents.sum(0)


def _is_list(image: Any) -> bool:
    return isinstance(image, list)
