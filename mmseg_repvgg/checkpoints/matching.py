"""What a state dict must be for a RepVGG backbone to take it: the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .key_names import fuse_state_dict, recognise, to_native, unwrap

_COUNTER = 'num_batches_tracked'


def adapt(
    state_dict: Mapping[str, Any], wanted: Mapping[str, Tensor], eps: float = 1e-5
) -> tuple[dict[str, Tensor], str]:
    """Turn a state dict of any layout into one that fills a backbone exactly.

    A training-form state dict is fused where the backbone is.

    Args:
        state_dict: Of a backbone or of a model that holds one, in the layout of this
            project, the author, mmpretrain or timm; wrappers are taken off.
        wanted: The backbone's own state dict.
        eps: What the backbone's batch norms add to the variance.

    Returns:
        The backbone's tensors, and what was done, in a line.

    Raises:
        CheckpointError: If a tensor is missing, left over, of another shape or nothing to
            compute with, or if the state dict is fused and the backbone in the training
            form. The message lists the first few on both sides.
    """
    try:
        native = to_native(unwrap(state_dict))
    except CheckpointError as error:
        raise CheckpointError(
            f'the checkpoint does not fit the RepVGG backbone: {error}'
        ) from error
    backbone = native.backbone
    have, need = native.recognised.form, _form(wanted)
    if have == 'training' and need == 'fused':
        backbone = fuse_state_dict(backbone, eps)
    said = (
        f'RepVGG: {native.recognised.layout} layout, {have} form'
        f'{", fused on the way in" if have != need else ""}: {len(backbone)} tensors '
        f'into the backbone, {len(native.classifier)} of a classifier and '
        f'{len(native.rest)} of other parts set aside'
    )
    if have == 'fused' and need == 'training':
        raise CheckpointError(
            'the checkpoint does not fit the RepVGG backbone: it is fused, and the model '
            'is in the training form; fusing cannot be undone. To train, start from a '
            'checkpoint in the training form. To evaluate this one, tools/test.py builds '
            'the fused form by itself; else --cfg-options model.backbone.deploy=True'
        )
    # Stages that were not built, being behind the last output, are no loss.
    built = {key.split('.')[0] for key in wanted}
    backbone = {
        key: value
        for key, value in backbone.items()
        if key.split('.')[0] in built or not key.startswith('stage_')
    }
    _require_match(backbone, wanted, have)
    return backbone, said


def _form(keys: Mapping[str, Any]) -> str:
    recognised = recognise(keys)
    return recognised.form if recognised else 'training'


def _require_match(
    found: dict[str, Tensor], wanted: Mapping[str, Tensor], form: str
) -> None:
    # Batch norms of before torch 0.4.1 kept no counter; torch fills it in.
    missing = [k for k in wanted if k not in found and not k.endswith(_COUNTER)]
    unexpected = [k for k in found if k not in wanted]
    reshaped = [
        f'{k} {tuple(found[k].shape)} where the model has {tuple(wanted[k].shape)}'
        for k in wanted
        if k in found and found[k].shape != wanted[k].shape
    ]
    recast = [
        f'{k} ({found[k].dtype})'
        for k in wanted
        if k in found and found[k].is_floating_point() != wanted[k].is_floating_point()
    ]
    lines = []
    if missing:
        lines.append(f'  missing from the checkpoint: {_few(missing)}')
    if unexpected:
        lines.append(f'  not in the model: {_few(unexpected)}')
    if reshaped:
        lines.append(f'  of another shape: {_few(reshaped)}')
    if lines:
        lines.insert(0, f'it is in the {form} form, but of another arch')
    elif recast:
        lines = [f'its tensors are of another kind: {_few(recast)}']
    if lines:
        text = '\n'.join(lines)
        raise CheckpointError(f'the checkpoint does not fit the RepVGG backbone: {text}')


def _few(items: list[str], most: int = 5) -> str:
    more = f' and {len(items) - most} more' if len(items) > most else ''
    return ', '.join(items[:most]) + more
