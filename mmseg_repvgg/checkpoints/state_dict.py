"""State dicts: how to take one out of a checkpoint, and what its tensors must be."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

# The entries of a checkpoint that may hold the state dict, in order of preference.
# mmengine stores the EMA weights as 'state_dict' and the weights in training as
# 'ema_state_dict', so entries with EMA in their name come last.
_WRAPPERS = (
    'state_dict',
    'model_state_dict',
    'model',
    'state_dict_ema',
    'model_ema',
    'ema_state_dict',
)
# DistributedDataParallel and torch.compile put these before every key; averaged models
# add a counter.
_MODULE_PREFIXES = ('module.', '_orig_mod.')
_COUNTERS = ('steps', 'n_averaged')
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def extract_state_dict(checkpoint: Any) -> dict[str, Tensor]:
    """Return the state dict that a checkpoint holds.

    A dict of tensors is returned as it is. Otherwise the first entry of ``_WRAPPERS`` is
    taken, so EMA weights only if there are no others.

    The prefixes ``module.`` and ``_orig_mod.`` are removed if every key has them, and
    with them the counter of an averaged model.

    Raises:
        CheckpointError: If there is no state dict, or if a tensor is not dense, real,
            unquantized and finite, with memory of its own size.
    """
    state_dict, where = checkpoint, 'it'
    if isinstance(checkpoint, Mapping):
        for wrapper in _WRAPPERS:
            # A model may have a tensor of that name.
            if wrapper in checkpoint and not isinstance(checkpoint[wrapper], Tensor):
                state_dict, where = checkpoint[wrapper], f'its {wrapper!r}'
                break
    if not isinstance(state_dict, Mapping):
        kind = type(state_dict).__name__
        raise CheckpointError(f'{where} is a {kind}, not a dict of tensors')
    if not state_dict:
        raise CheckpointError(f'{where} is empty')
    for key, value in state_dict.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise CheckpointError(
                f'{where} is not a state dict: {key!r} is a {kind}, not a tensor'
            )
        if flaw := _find_flaw(value):
            raise CheckpointError(f'{where} cannot be loaded: {key} {flaw}')
    return _without_module_prefix(dict(state_dict))


def _find_flaw(value: Tensor) -> str | None:
    """Return why a tensor cannot be a weight or a buffer, or None if it can."""
    # mmengine only logs a tensor that it could not copy, and keeps random weights.
    if value.layout is not torch.strided or value.is_nested:
        return 'is not a dense tensor'
    if value.is_complex() or (value.is_floating_point() and value.dtype not in _FLOATS):
        return f'is of {value.dtype}'
    if not value.isfinite().all():
        return 'holds NaN or infinite numbers'
    return None


def describe_mismatch(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """List the first few tensors in which a state dict does not fit the wanted one.

    Counters of batch norms may be missing: torch before 0.4.1 had none, and they do not
    take part in evaluation.
    """
    both = [(key, found[key], value) for key, value in wanted.items() if key in found]
    missing = [key for key in wanted if key not in found]
    problems = {
        'missing': [k for k in missing if not k.endswith('.num_batches_tracked')],
        'not in the model': [key for key in found if key not in wanted],
        'of another shape': [
            f'{key} {tuple(a.shape)} where the model has {tuple(b.shape)}'
            for key, a, b in both
            if a.shape != b.shape
        ],
        'of another dtype': [
            f'{key} ({a.dtype}) where the model has {b.dtype}'
            for key, a, b in both
            if a.is_floating_point() != b.is_floating_point()
        ],
    }
    return '; '.join(f'{what}: {few(keys)}' for what, keys in problems.items() if keys)


def few(items: Collection[str]) -> str:
    """Join the first five items for a message, and count the rest."""
    more = f' and {len(items) - 5} more' if len(items) > 5 else ''
    return ', '.join(list(items)[:5]) + more


def _without_module_prefix(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _MODULE_PREFIXES:
        keys = [key for key in state_dict if key not in _COUNTERS]
        if keys and all(key.startswith(prefix) for key in keys):
            inner = {key.removeprefix(prefix): state_dict[key] for key in keys}
            return _without_module_prefix(inner)
    return state_dict
