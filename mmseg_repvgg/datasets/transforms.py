"""Pipeline transforms: loading that names a broken file, and Gaussian blur."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmcv.transforms.utils import cache_randomness
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from PIL import Image

from ..errors import DataError, ImageError


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """Load an image and stop at one that is broken.

    OpenCV decodes a truncated JPEG to a half grey image without a word; Pillow refuses.
    But Pillow turns a grey image of 16 bits, or of floats, to a white one.

    Args:
        **kwargs: As for ``LoadImageFromFile``, but with ``imdecode_backend='pillow'``.

    Raises:
        DataError: If the file does not exist.
        ImageError: If it is truncated, no image, or one that Pillow would clip.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{'imdecode_backend': 'pillow', **kwargs})

    def transform(self, results: dict) -> dict | None:
        """Add ``img`` (H, W, 3), BGR uint8, and its shapes to ``results``."""
        path = results['img_path']
        try:
            clips = self.imdecode_backend == 'pillow' and self.color_type != 'unchanged'
            if clips and os.path.isfile(path):
                _require_8_bits(path)
            return super().transform(results)
        except ImageError:
            raise
        except FileNotFoundError as error:
            raise DataError(f'the image {path} does not exist') from error
        except (OSError, SyntaxError, AssertionError) as error:
            raise _broken('image', path, error) from error


@TRANSFORMS.register_module()
class LoadCheckedAnnotations(LoadAnnotations):
    """Load a label map and stop at one that is broken or does not fit.

    Args:
        num_classes: How many classes the data set has, from 0 on; None if any label may
            be. The tools fill it in, see :func:`~.checked_loading.check_loading`.
        ignore_index: The label that stands for no class.
        **kwargs: As for mmseg's ``LoadAnnotations``.

    Raises:
        DataError: If the file does not exist.
        ImageError: If it is truncated, no image, of another size than the image, or
            holds a label that is no class: mmseg would leave it out of the union but
            not the prediction there, and a loss would stop at it without naming a file.
    """

    def __init__(
        self, num_classes: int | None = None, ignore_index: int = 255, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        try:
            super()._load_seg_map(results)
        except FileNotFoundError as error:
            raise DataError(
                f'the label map {path} of the image {results.get("img_path")} '
                'does not exist'
            ) from error
        except (OSError, SyntaxError, AttributeError) as error:
            raise _broken('label map', path, error) from error
        shape, expected = results['gt_seg_map'].shape, results.get('ori_shape')
        if expected is not None and tuple(shape) != tuple(expected):
            raise ImageError(
                f'the label map {path} is of shape {tuple(shape)} but its image '
                f'{results.get("img_path")} of {tuple(expected)} (height, width)'
            )
        self._require_classes(results['gt_seg_map'], path)

    def _require_classes(self, labels: np.ndarray, path: str) -> None:
        if self.num_classes is None:
            return
        # 255 is what mmseg makes of a zero that is not to count.
        wrong = (labels >= self.num_classes) & (labels != 255)
        wrong &= labels != self.ignore_index
        if wrong.any():
            raise ImageError(
                f'the label map {path} holds {np.unique(labels[wrong]).tolist()}, but '
                f'the data set has {self.num_classes} classes, from 0 on, and '
                f'{self.ignore_index} for what is ignored. Make it anew, with '
                'tools/prepare_cityscapes.py or tools/prepare_camvid.py if it is of '
                'these, or take it out of the data set'
            )


def _require_8_bits(path: str) -> None:
    with Image.open(path) as image:
        # I, I;16, I;16B, F: what has colours has been brought to 8 bits by Pillow.
        if image.mode.startswith(('I', 'F')):
            raise ImageError(
                f'the image {path} is of mode {image.mode}, more than 8 bits a pixel, '
                'which would be clipped. Save it with 8 bits'
            )


def _broken(what: str, path: str, error: Exception) -> ImageError:
    return ImageError(
        f'the {what} {path} cannot be read whole ({error}): it is truncated or no image '
        'file. Replace it, or take it out of the data set'
    )


@TRANSFORMS.register_module()
class RandomGaussianBlur(BaseTransform):
    """Blur an image now and then, as the PSPNet reference's recipe does.

    Source: https://github.com/hszhao/semseg, ``RandomGaussianBlur``.

    Args:
        prob: How often, from 0 to 1.
        kernel_size: Side of the Gaussian kernel in pixels; odd. Its sigma follows from
            it as OpenCV sets it.
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
        """Blur ``results['img']``, shape (H, W, 3), or leave it."""
        if self._blurs():
            size = (self.kernel_size, self.kernel_size)
            results['img'] = cv2.GaussianBlur(results['img'], size, 0)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, kernel_size={self.kernel_size})'
