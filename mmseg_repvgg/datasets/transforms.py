"""Pipeline transforms: loading with checks, and Gaussian blur."""

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmcv.transforms.utils import cache_randomness
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from PIL import Image

from repvgg_runtime.bands import read_bands
from repvgg_runtime.special_files import refuse_special_file

from ..errors import ConfigError, DataError, ImageError

# Reading and decoding raise these for broken files, hostile chunks and images with more
# pixels than the library accepts. mmcv asserts that OpenCV could decode.
_UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, IndexError, AssertionError),
    *(struct.error, zlib.error, cv2.error),
)


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """Load an image, or raise an error that names the broken file.

    Pillow is the default, because OpenCV silently decodes a truncated JPEG to a half
    grey image. Pillow clips images of 16 bits or floats, which are refused as well.

    Args:
        **kwargs: Arguments of ``LoadImageFromFile``; ``imdecode_backend`` is 'pillow'
            unless given.

    Raises:
        DataError: If the file does not exist.
        ImageError: If it is truncated, not an image, not a regular file, too large for
            the decoder, or would be clipped.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{'imdecode_backend': 'pillow', **kwargs})

    def transform(self, results: dict) -> dict | None:
        """Add ``img`` (H, W, 3), BGR uint8, and its shapes to ``results``."""
        path = results['img_path']
        clips = self.imdecode_backend == 'pillow' and self.color_type != 'unchanged'
        with _naming('image', path):
            if clips and os.path.isfile(path):
                _require_8_bits(path)
            return super().transform(results)


@TRANSFORMS.register_module()
class LoadBands(LoadImageFromFile):
    """Load a TIFF file of any number of bands, or raise an error that names the file.

    Args:
        bands: Number of bands that each file must have; None allows any.

    Raises:
        DataError: If the file does not exist.
        ExtraError: If tifffile is not installed.
        ImageError: See :func:`repvgg_runtime.bands.read_bands`.
    """

    def __init__(self, bands: int | None = None) -> None:
        super().__init__()
        self.bands = bands

    def transform(self, results: dict) -> dict:
        """Add ``img`` (H, W, bands), uint8 or float32, and its shapes to ``results``."""
        image = read_bands(results['img_path'], self.bands)
        # torch and OpenCV compute little with 16 bits.
        image = image if image.dtype == np.uint8 else image.astype(np.float32)
        shape = image.shape[:2]
        return {**results, 'img': image, 'img_shape': shape, 'ori_shape': shape}


@TRANSFORMS.register_module()
class LoadCheckedAnnotations(LoadAnnotations):
    """Load a label map, or raise an error that names the broken or wrong file.

    The values of the file are checked before they are cast: mmseg casts to 8 bits first,
    which turns 256 and 0.5 into class 0. The result is uint8, as in mmseg, or uint16 if
    there are more than 255 classes.

    Args:
        num_classes: Number of classes; None allows any label. The tools fill it in, see
            :func:`~.checks.check_loading`.
        ignore_index: The label of ignored pixels.
        **kwargs: Arguments of mmseg's ``LoadAnnotations``.

    Raises:
        ConfigError: If ``reduce_zero_label`` differs from that of the data set.
        DataError: If the file does not exist.
        ImageError: If it is not a whole image of one channel, of another size than the
            image, or holds a label that is not a class, with which mmseg computes a wrong
            IoU, and a loss fails without naming the file.
    """

    def __init__(
        self, num_classes: int | None = None, ignore_index: int = 255, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        with _naming('label map', path):
            data = fileio.get(path, backend_args=self.backend_args)
            labels = mmcv.imfrombytes(
                data, flag='unchanged', backend=self.imdecode_backend
            )
            if labels is None:
                raise ValueError('OpenCV cannot decode it')
            if results.get('colors'):
                labels = _apply_palette(labels, data)
        if results.get('colors'):
            labels = _labels_of_colors(labels, results['colors'], path)
        labels = _whole_numbers(labels, path)
        expected = results.get('ori_shape')
        if expected is not None and labels.shape != tuple(expected):
            raise ImageError(
                f'the label map {path} is of shape {labels.shape} but its image '
                f'{results.get("img_path")} of {tuple(expected)} (height, width)'
            )
        labels = self._as_used(labels, results)
        if self.num_classes is not None:
            self._require_classes(labels, path, self.num_classes)
        wide = (self.num_classes or 0) > 255 or labels.max() > 255
        results['gt_seg_map'] = labels.astype(np.uint16 if wide else np.uint8)
        results['seg_fields'].append('gt_seg_map')

    def _as_used(self, labels: np.ndarray, results: dict) -> np.ndarray:
        """Apply ``reduce_zero_label`` and the ``label_map`` of the data set."""
        reduces = results['reduce_zero_label']
        if self.reduce_zero_label not in (None, reduces):
            raise ConfigError(
                f'reduce_zero_label of LoadAnnotations is {self.reduce_zero_label}, but '
                f'that of the data set is {reduces}. Leave it out of LoadAnnotations'
            )
        if reduces:
            # 255 is ignored already, and larger labels are not classes.
            shifted = labels - (labels < 255)
            labels = np.where(labels == 0, 255, shifted).astype(labels.dtype)
        used = labels.copy()
        for old, new in (results.get('label_map') or {}).items():
            used[labels == old] = new
        return used

    def _require_classes(self, labels: np.ndarray, path: str, classes: int) -> None:
        if classes > 255 == self.ignore_index and (labels == 255).any():
            raise ImageError(
                f'the label map {path} holds 255, which is one of the {classes} classes '
                'and also the ignored label. Set ignore_index of the data set, the '
                'metric and the losses, and seg_pad_val, to 65535'
            )
        # reduce_zero_label turns 0 into 255.
        ignored = (labels == 255) | (labels == self.ignore_index)
        wrong = labels[(labels >= classes) & ~ignored]
        if wrong.size:
            raise ImageError(
                f'the label map {path} holds {np.unique(wrong).tolist()}, but the data '
                f'set has {classes} classes from 0 on and ignores {self.ignore_index}. '
                'Correct it, for Cityscapes by mmseg-repvgg prepare-cityscapes, or name '
                'more classes'
            )


def _apply_palette(image: np.ndarray, data: bytes) -> np.ndarray:
    """Return the colours, BGR, of an image that Pillow decodes to indices of a palette.

    A palette of the indices themselves, as grey values, is left out.
    """
    with Image.open(io.BytesIO(data)) as opened:
        if opened.mode != 'P' or image.ndim != 2:
            return image
        colors = np.asarray(opened.convert('RGB'))
    return image if (colors == image[..., None]).all() else colors[..., ::-1]


def _labels_of_colors(
    image: np.ndarray, colors: Mapping[tuple[int, ...], int], path: str
) -> np.ndarray:
    """Return the labels of an image of colours, BGR, or of greys if all colours are."""
    if image.ndim == 2 and all(len(set(color)) == 1 for color in colors):
        greys = image * np.uint8(255) if image.dtype == bool else image
        image = np.dstack([greys] * 3)
    if image.ndim == 2 or image.shape[2] < 3:
        return image
    codes = image[..., :3].astype(np.int64) @ (1, 256, 65536)
    table = sorted((r << 16 | g << 8 | b, label) for (r, g, b), label in colors.items())
    known, labels = np.array(table).T
    index = np.searchsorted(known, codes).clip(max=len(known) - 1)
    wrong = np.unique(codes[known[index] != codes])[:10].tolist()
    if wrong:
        found = [(code >> 16, code >> 8 & 255, code & 255) for code in wrong]
        raise ImageError(
            f'the label map {path} has the colours {found}, which are of no class. If it '
            'holds class numbers, save it without a palette'
        )
    return labels.astype(np.min_scalar_type(labels.max()))[index]


def _whole_numbers(labels: np.ndarray, path: str) -> np.ndarray:
    """Cast labels to (H, W), uint8 or uint16; raise if a value would change."""
    labels = labels.squeeze() if labels.ndim > 2 else labels
    if labels.ndim != 2:
        raise ImageError(
            f'the label map {path} has the shape {labels.shape}: colours are not '
            'labels. Save the class number of each pixel in one channel'
        )
    with np.errstate(invalid='ignore'):
        kept = labels.astype(np.uint8 if labels.dtype.itemsize == 1 else np.uint16)
    if not np.array_equal(kept, labels):
        wrong = np.unique(labels[kept != labels])[:10].tolist()
        raise ImageError(
            f'the label map {path} holds {wrong}, but labels are whole numbers from 0 to '
            '65535. Save it with such numbers, and 255 for ignored pixels'
        )
    return kept


def _require_8_bits(path: str) -> None:
    with Image.open(path) as image:
        # These are I, I;16, I;16B and F; Pillow converts colours to 8 bits itself.
        if image.mode.startswith(('I', 'F')):
            raise ImageError(
                f'the image {path} has more than 8 bits per pixel (mode {image.mode}) '
                'and would be clipped. Save it with 8 bits'
            )


@contextlib.contextmanager
def _naming(what: str, path: str) -> Iterator[None]:
    """Raise errors in reading and decoding a file as errors that name it."""
    try:
        refuse_special_file(path)
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise DataError(f'the {what} {path} does not exist') from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f'the {what} {path} is too large for Pillow ({error}). Cut it into tiles, or '
            'raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file'
        ) from error
    except _UNREADABLE as error:
        # The text of OpenCV's error has several lines; `err` is the reason.
        said = getattr(error, 'err', error)
        raise ImageError(
            f'the {what} {path} is truncated or not an image ({said}). Replace it, or '
            'remove it from the data set'
        ) from error


@TRANSFORMS.register_module()
class RandomGaussianBlur(BaseTransform):
    """Blur an image at random, as in the recipe of the PSPNet reference.

    Source: https://github.com/hszhao/semseg, ``RandomGaussianBlur``.

    Args:
        prob: Probability, from 0 to 1.
        kernel_size: Odd side of the Gaussian kernel in pixels, from which OpenCV derives
            sigma.
    """

    def __init__(self, prob: float = 0.5, kernel_size: int = 5) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must be from 0 to 1, but got {prob}')
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, but got {kernel_size}')
        self.prob = prob
        self.kernel_size = kernel_size

    @cache_randomness
    def _blurs(self) -> bool:
        return np.random.rand() < self.prob

    def transform(self, results: dict) -> dict:
        """Blur ``results['img']``, shape (H, W, 3), or keep it."""
        if self._blurs():
            size = (self.kernel_size, self.kernel_size)
            results['img'] = cv2.GaussianBlur(results['img'], size, 0)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, kernel_size={self.kernel_size})'
