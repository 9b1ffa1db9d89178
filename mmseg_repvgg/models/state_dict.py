"""What a state dict must be for a RepVGG backbone to take it: the whole of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from ..errors import CheckpointError

_COUNTER = 'num_batches_tracked'


def require_match(
    backbone: nn.Module, state_dict: Mapping[str, Tensor], prefix: str
) -> None:
    """Check that a state dict fills a backbone exactly, before anything is loaded.

    Args:
        backbone: The backbone to be loaded.
        state_dict: Of a whole model, or of the backbone alone.
        prefix: What the backbone's keys begin with in it.

    Raises:
        CheckpointError: If a tensor is missing, left over or of another shape. The
            message says which form the checkpoint has, and the first few on both sides.
    """
    wanted = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    found = {
        key[len(prefix) :]: tuple(value.shape)
        for key, value in state_dict.items()
        if key.startswith(prefix)
    }
    # Batch norms of before torch 0.4.1 kept no counter; torch fills it in.
    missing = [k for k in wanted if k not in found and not k.endswith(_COUNTER)]
    unexpected = [k for k in found if k not in wanted]
    reshaped = [k for k in wanted if k in found and wanted[k] != found[k]]
    if not (missing or unexpected or reshaped):
        return
    lines = [f'the checkpoint does not fit the RepVGG backbone: {_reason(wanted, found)}']
    if missing:
        lines.append(f'  missing from the checkpoint: {_few(missing)}')
    if unexpected:
        lines.append(f'  not in the model: {_few(unexpected)}')
    if reshaped:
        shapes = [f'{k} {found[k]} where the model has {wanted[k]}' for k in reshaped]
        lines.append(f'  of another shape: {_few(shapes)}')
    raise CheckpointError('\n'.join(lines))


def form(keys: Collection[str]) -> str | None:
    """Tell the form of a backbone's keys: ``'training'``, ``'fused'`` or None."""
    if any('.conv.branch_3x3.' in key for key in keys):
        return 'training'
    if any(key.endswith('stem.conv.weight') for key in keys):
        return 'fused'
    return None


def _reason(wanted: Collection[str], found: Collection[str]) -> str:
    have, need = form(found), form(wanted)
    if have is None:
        return (
            'it holds no weights in the layout of mmseg_repvgg'
            + ('' if found else ' under the name of the backbone')
            + '.'
        )
    if have == need:
        return f'it is in the {have} form, as the model is, but of another arch.'
    if have == 'fused':
        return (
            'it is fused and the model is in the training form. Load a checkpoint that '
            'train.py wrote, or, to evaluate this one, build the fused form: '
            '--cfg-options model.backbone.deploy=True'
        )
    return (
        'it is in the training form and the model is built fused. Build the model with '
        'deploy=False and let mmseg_repvgg.deploy(model), or the DeployHook, fuse it.'
    )


def _few(items: list[str], most: int = 5) -> str:
    more = f' and {len(items) - most} more' if len(items) > most else ''
    return ', '.join(items[:most]) + more
