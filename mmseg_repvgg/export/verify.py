"""Comparison of an exported file with the fused model, made before the file is saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ExportError, UserError
from .backends import Backend, said_last

TOLERANCE = 1e-4
# Pixels between independent values of the noise.
_CELL = 16


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far a file is from the model.

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
    """Compare a file with the model on images.

    Args:
        backend: The file.
        model: The fused segmentor, by whose own code the reference is computed.
        batches: Images as they are read, each batch (B, 3, H, W), such as
            :func:`smooth_noise`.

    Raises:
        ExportError: If logits differ by more than :data:`TOLERANCE`, labels on more than
            that share of the pixels, or the output has another shape.
    """
    facts = backend.metadata
    errors, differing, pixels, shapes = [], 0, 0, []
    for images in batches:
        shapes.append((len(images), *images.shape[2:]))
        inputs, expected = reference(model, images)
        found = _run(backend, images if facts.normalize else inputs.numpy())
        labels = expected.argmax(1)
        shape = labels.shape if facts.output == 'labels' else expected.shape
        if found.shape != shape:
            raise ExportError(
                f'{backend.path.name} gives {facts.output} of shape '
                f'{tuple(found.shape)}, where the model gives {tuple(shape)}'
            )
        if facts.output == 'logits':
            scale = max(float(expected.abs().max()), 1e-30)
            errors.append(float((found - expected).abs().max()) / scale)
            found = found.argmax(1)
        differing += int((found != labels).sum())
        pixels += labels.numel()
    # Sorting would lose a NaN; np.max keeps it.
    agreement = Agreement(
        float(np.max(errors)) if errors else None, differing / max(pixels, 1)
    )
    _require(agreement, backend, shapes)
    return agreement


def _run(backend: Backend, images: npt.NDArray[Any]) -> Tensor:
    try:
        return torch.from_numpy(backend(images))
    except UserError:
        raise
    except Exception as error:
        # Each backend has errors of its own.
        raise ExportError(
            f'{backend.path.name} cannot be run on images of {tuple(images.shape)}: '
            f'{said_last(error)}. Nothing was kept'
        ) from error


def _require(
    agreement: Agreement, backend: Backend, shapes: list[tuple[int, ...]]
) -> None:
    # Written so that NaN fails as well.
    fits = agreement.logit_error is None or agreement.logit_error <= TOLERANCE
    if fits and agreement.label_error <= TOLERANCE:
        return
    logits = (
        ''
        if agreement.logit_error is None
        else f'its logits differ by {agreement.logit_error:.1e} of their scale, '
    )
    raise ExportError(
        f'{backend.path.name} does not compute what the fused model does: {logits}its '
        f'labels on {agreement.label_error:.3%} of the pixels, where {TOLERANCE:.0e} is '
        f'allowed (tried: {", ".join("x".join(map(str, s)) for s in shapes)}). Nothing '
        'was kept. Try another --opset or --to, or a fixed --size'
    )


@torch.inference_mode()
def reference(model: Any, images: npt.NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """What the model makes of images, by mmseg's own code.

    Args:
        model: The segmentor.
        images: As files of images are read, (B, 3, H, W).

    Returns:
        The images as the preprocessor normalises them, without padding, and the logits
        of the whole image, (B, classes, H, W).
    """
    # Padding, which test_cfg may ask for, is the caller's, not the file's.
    preprocessor = copy(model.data_preprocessor)
    preprocessor.test_cfg = None
    inputs = preprocessor({'inputs': list(torch.from_numpy(images))}, False)['inputs']
    size = inputs.shape[2:]
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
    return inputs, model.whole_inference(inputs, [meta] * len(inputs))


def smooth_noise(batch: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draw noise that is smooth enough for labels to form regions, always the same.

    Args:
        batch: Number of images.
        height: Height of the images.
        width: Width of the images.

    Returns:
        Shape (B, 3, H, W), 0 to 255.
    """
    cells = (-(-height // _CELL), -(-width // _CELL))
    coarse = np.random.default_rng(0).uniform(0, 255, (batch, 3, *cells))
    smooth = F.interpolate(
        torch.from_numpy(coarse), (height, width), mode='bilinear', align_corners=False
    )
    return smooth.round().to(torch.uint8).numpy()
