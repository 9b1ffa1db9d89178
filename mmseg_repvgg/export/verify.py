"""Comparison of an exported file with the fused model, made before the file is saved."""

import dataclasses
from collections.abc import Iterable
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from repvgg_runtime.backends import Backend, last_line, shape_text

from ..errors import ExportError, UserError
from ..models.comparison import relative_difference

TOLERANCES = {'highest': 1e-4, 'high': 1e-4, 'medium': 5e-2}
"""Allowed difference of a logit and share of other labels, by precision of the engine."""
# Pixels between independent values of the noise.
_CELL = 16


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Difference between a file and the model.

    Attributes:
        logit_error: Largest difference of a logit relative to the largest absolute logit
            of the same images; None for a file of labels.
        label_error: Share of the pixels of all images whose label differs, from 0 to 1.
    """

    logit_error: float | None
    label_error: float


def verify(
    backend: Backend, model: torch.nn.Module, batches: Iterable[npt.NDArray[np.uint8]]
) -> Agreement:
    """Compare a file with the fused segmentor, which mmseg's own code computes.

    Each batch has images as they are read, (B, bands, H, W), as in :func:`smooth_noise`.

    Raises:
        ExportError: If logits differ by more than :data:`TOLERANCES` allow, labels on
            more than that share of the pixels, or the output has another shape.
    """
    facts, name = backend.metadata, backend.path.name
    tolerance = TOLERANCES[facts.precision]
    errors, differing, pixels, shapes = [], 0, 0, []
    for images in batches:
        shapes.append(shape_text(images.shape))
        inputs, expected = reference(model, images)
        labels = expected.argmax(1)
        wanted = labels if facts.output == 'labels' else expected
        try:
            output = backend(images if facts.normalize else inputs.numpy())
        except UserError:
            raise
        except Exception as error:
            # The runtimes raise errors of types of their own.
            raise ExportError(
                f'{name} cannot be run on images of {shapes[-1]}: {last_line(error)}. '
                'Nothing was saved'
            ) from error
        found = torch.from_numpy(output)
        if found.shape != wanted.shape:
            raise ExportError(
                f'{name} gives {facts.output} of shape {tuple(found.shape)}, but the '
                f'model gives {tuple(wanted.shape)}'
            )
        if facts.output == 'logits':
            errors.append(relative_difference(found, expected))
            found = found.argmax(1)
        differing += int((found != labels).sum())
        pixels += labels.numel()
    # np.max keeps a NaN, max() does not.
    agreement = Agreement(float(np.max(errors)) if errors else None, differing / pixels)
    # A comparison with NaN is false.
    if not (agreement.logit_error or 0) <= tolerance or agreement.label_error > tolerance:
        raise ExportError(
            f'{name} does not compute what the fused model computes: relative error of '
            f'the logits {agreement.logit_error}, other labels on '
            f'{agreement.label_error:.3%} of the pixels, {tolerance:.0e} allowed, on '
            f'images of {", ".join(shapes)}. Nothing was saved; try another --opset or '
            '--to, or a fixed --size'
        )
    return agreement


@torch.inference_mode()
def reference(model: Any, images: npt.NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Compute the logits of images, (B, bands, H, W), by mmseg's own code.

    Returns:
        The images as the preprocessor normalizes them, without padding, and the logits
        of the whole images, (B, classes, H, W).
    """
    # An exported file does not pad.
    preprocessor = copy(model.data_preprocessor)
    preprocessor.test_cfg = None
    inputs = preprocessor({'inputs': list(torch.from_numpy(images))}, False)['inputs']
    size = inputs.shape[2:]
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
    return inputs, model.whole_inference(inputs, [meta] * len(inputs))


def smooth_noise(
    batch: int, height: int, width: int, bands: int = 3
) -> npt.NDArray[np.uint8]:
    """Draw images, (B, bands, H, W), of noise that is always the same.

    The noise is smooth enough for labels to form regions.
    """
    cells = (-(-height // _CELL), -(-width // _CELL))
    coarse = np.random.default_rng(0).uniform(0, 255, (batch, bands, *cells))
    smooth = F.interpolate(
        torch.from_numpy(coarse), (height, width), mode='bilinear', align_corners=False
    )
    return smooth.round().to(torch.uint8).numpy()
