"""Pipeline transforms: loading that names a broken file, and Gaussian blur."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmcv.transforms.utils import cache_randomness
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from ..errors import DataError, ImageError


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """Load an image and stop at one that is broken.

    OpenCV decodes a truncated JPEG to a half grey image without a word; Pillow refuses.

    Args:
        **kwargs: As for ``LoadImageFromFile``, but with ``imdecode_backend='pillow'``.

    Raises:
        DataError: If the file does not exist.
        ImageError: If it is truncated or no image.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{'imdecode_backend': 'pillow', **kwargs})

    def transform(self, results: dict) -> dict | None:
        """Add ``img`` (H, W, 3), BGR uint8, and its shapes to ``results``."""
        path = results['img_path']
        try:
            return super().transform(results)
        except FileNotFoundError as error:
            raise DataError(f'the image {path} does not exist') from error
        except (OSError, SyntaxError, AssertionError) as error:
            raise _broken('image', path, error) from error


@TRANSFORMS.register_module()
class LoadCheckedAnnotations(LoadAnnotations):
    """Load a label map and stop at one that is broken or not of its image's size.

    Raises:
        DataError: If the file does not exist.
        ImageError: If it is truncated, no image, or of another size than the image.
    """

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
