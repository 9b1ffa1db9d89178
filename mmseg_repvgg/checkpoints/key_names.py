"""The key names of other projects' RepVGG checkpoints, and the ways to and from ours.

Four projects name the same tensors: this one, the author's repository
(https://github.com/DingXiaoH/RepVGG), mmpretrain and timm. All that they disagree on is
in one table, :data:`_NAMES`; a key is read as the place in the net that it stands for,
in full and anchored at both ends, and written from that place. What cannot be read is
an error, never passed over.

Pure functions on dicts of tensors: the backbone itself uses them to load any layout.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..reparam.algebra import ConvParams, add_parallel, fold_batch_norm, identity_kernel
from .weights import find_flaw

LAYOUTS = ('mmseg_repvgg', 'official', 'mmpretrain', 'timm')

_WEIGHT = ('weight',)
_CONV = ('weight', 'bias')
_NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')

# What a block consists of, with the tensors of each part.
_PARTS: dict[str, tuple[str, ...]] = {
    'kernel_3x3': _WEIGHT,
    'norm_3x3': _NORM,
    'kernel_1x1': _WEIGHT,
    'norm_1x1': _NORM,
    'norm_identity': _NORM,
    'fused': _CONV,
    'se_down': _CONV,
    'se_up': _CONV,
}
_SE = ('se_down', 'se_up')


class _Place(NamedTuple):
    """Where in a net a tensor belongs; stage 0 is the stem, and its block is 0."""

    stage: int
    block: int
    part: str
    tensor: str


@dataclass(frozen=True)
class _Names:
    """The names of one project.

    Attributes:
        stem: The block of the stem.
        stage: What precedes a stage's number.
        first: The number of the first stage behind the stem.
        parts: The parts of a block, in the order of the project's own state dicts.
        prefix: What the project's own files have before the backbone's keys.
        classifier: The ImageNet classifier, if the project's nets have one.
        aliases: Further names that are read and never written.
        stage_alias: The same for what precedes a stage's number.
    """

    stem: str
    stage: str
    first: int
    parts: Mapping[str, str]
    prefix: str = ''
    classifier: str | None = None
    aliases: Mapping[str, str] | None = None
    stage_alias: str | None = None

    def part_of(self) -> dict[str, str]:
        """Map every name that is read to its part."""
        return {**(self.aliases or {}), **{name: p for p, name in self.parts.items()}}

    def pattern(self) -> re.Pattern[str]:
        """Build what matches a whole key: prefix, stage and block, part, tensor."""
        stages = '|'.join(re.escape(s) for s in (self.stage, self.stage_alias) if s)
        numbers = f'[{self.first}-{self.first + 3}]'
        parts = '|'.join(map(re.escape, self.part_of()))
        return re.compile(
            rf'(?P<prefix>(?:.+\.)?)'
            rf'(?:{re.escape(self.stem)}'
            rf'|(?:{stages})(?P<stage>{numbers})\.(?P<block>0|[1-9][0-9]*))'
            rf'\.(?P<part>{parts})\.(?P<tensor>[a-z_]+)'
        )

    def write(self, place: _Place) -> str:
        """Name a place, without prefix."""
        stage, block, part, tensor = place
        where = (
            self.stem if stage == 0 else f'{self.stage}{stage - 1 + self.first}.{block}'
        )
        return f'{where}.{self.parts[part]}.{tensor}'


_NAMES: dict[str, _Names] = {
    'mmseg_repvgg': _Names(
        stem='stem',
        stage='stage_',
        first=1,
        parts={
            'kernel_3x3': 'conv.branch_3x3.conv',
            'norm_3x3': 'conv.branch_3x3.bn',
            'kernel_1x1': 'conv.branch_1x1.conv',
            'norm_1x1': 'conv.branch_1x1.bn',
            'norm_identity': 'conv.branch_identity',
            'fused': 'conv',
            'se_down': 'se.down',
            'se_up': 'se.up',
        },
    ),
    'official': _Names(
        stem='stage0',
        stage='stage',
        first=1,
        parts={
            'se_down': 'se.down',
            'se_up': 'se.up',
            'fused': 'rbr_reparam',
            'norm_identity': 'rbr_identity',
            'kernel_3x3': 'rbr_dense.conv',
            'norm_3x3': 'rbr_dense.bn',
            'kernel_1x1': 'rbr_1x1.conv',
            'norm_1x1': 'rbr_1x1.bn',
        },
        classifier='linear',
    ),
    'mmpretrain': _Names(
        stem='stem',
        stage='stage_',
        first=1,
        parts={
            'fused': 'branch_reparam',
            'norm_identity': 'branch_norm',
            'kernel_3x3': 'branch_3x3.conv',
            'norm_3x3': 'branch_3x3.norm',
            'kernel_1x1': 'branch_1x1.conv',
            'norm_1x1': 'branch_1x1.norm',
            'se_down': 'se_layer.conv1.conv',
            'se_up': 'se_layer.conv2.conv',
        },
        prefix='backbone.',
        classifier='head.fc',
        # Of older releases, as is reported; the current one does not write them.
        aliases={'branch_3x3.bn': 'norm_3x3', 'branch_1x1.bn': 'norm_1x1'},
    ),
    'timm': _Names(
        stem='stem',
        stage='stages.',
        first=0,
        parts={
            'fused': 'reparam_conv',
            'norm_identity': 'identity',
            'kernel_3x3': 'conv_kxk.conv',
            'norm_3x3': 'conv_kxk.bn',
            'kernel_1x1': 'conv_1x1.conv',
            'norm_1x1': 'conv_1x1.bn',
            'se_down': 'attn.fc1',
            'se_up': 'attn.fc2',
        },
        classifier='head.fc',
        # Of a net made with features_only=True.
        stage_alias='stages_',
    ),
}
_PATTERNS = {layout: names.pattern() for layout, names in _NAMES.items()}
_PART_OF = {layout: names.part_of() for layout, names in _NAMES.items()}

# Where a checkpoint keeps its state dict, the first that is there. mmengine stores the
# EMA weights as 'state_dict' and those being trained as 'ema_state_dict', so what is
# named EMA comes last.
WRAPPERS = (
    'state_dict',
    'model_state_dict',
    'model',
    'state_dict_ema',
    'model_ema',
    'ema_state_dict',
)
# What wrappers of a module put before all of its keys, and the counters of averages.
_MODULE_PREFIXES = ('module.', '_orig_mod.')
_COUNTERS = ('steps', 'n_averaged')


@dataclass(frozen=True)
class Recognised:
    """What a state dict's keys tell.

    Attributes:
        layout: One of :data:`LAYOUTS`.
        form: ``'training'`` or ``'fused'``.
        prefix: What precedes the backbone's own keys, such as ``'backbone.'``, or ``''``.
    """

    layout: str
    form: str
    prefix: str


@dataclass(frozen=True)
class Native:
    """A state dict in the names of this project, nothing of it lost.

    Attributes:
        backbone: The backbone's tensors, by our keys without prefix, in our order.
        classifier: Keys, as they were, of the ImageNet classifier, set aside.
        rest: What lies outside the backbone, such as a decode head, untouched.
        recognised: What the state dict was.
    """

    backbone: dict[str, Tensor]
    classifier: tuple[str, ...]
    rest: dict[str, Tensor]
    recognised: Recognised


def recognise(keys: Iterable[str]) -> Recognised | None:
    """Tell the layout, the form and the prefix of a RepVGG backbone from its keys.

    A single layer proves nothing, since other nets have a ``stem.conv.weight`` too.

    Args:
        keys: Keys of a state dict, of a backbone or of a model that holds one.

    Returns:
        What it is; the one with the most keys if there are several; None if there is
        no backbone of two layers or more.
    """
    candidates = _candidates(keys)
    return candidates[0] if candidates else None


def to_native(state_dict: Mapping[str, Tensor]) -> Native:
    """Map a state dict of any layout to our keys.

    Args:
        state_dict: Of a backbone or of a model that holds one; see :func:`unwrap`.

    Raises:
        CheckpointError: If no backbone is recognised, or more than one; if a key under
            the backbone's prefix is unknown; if two keys stand for one tensor; if some
            blocks are fused and others are not.
    """
    candidates = _candidates(state_dict)
    if not candidates:
        raise CheckpointError(
            'it holds no RepVGG backbone in the layout of any of '
            f'{", ".join(LAYOUTS)}. Its keys: {_few(state_dict) or "none"}'
        )
    recognised, *others = candidates
    layout, prefix = recognised.layout, recognised.prefix
    if others:
        found = [f"{c.layout} under '{c.prefix}'" for c in candidates]
        raise CheckpointError(f'it holds more than one RepVGG backbone: {_few(found)}')

    places: dict[_Place, str] = {}
    classifier: list[str] = []
    rest: dict[str, Tensor] = {}
    unknown: list[str] = []
    classifier_keys = _classifier_keys(layout, prefix)
    for key, value in state_dict.items():
        parsed = _parse(layout, key)
        if parsed is not None and parsed[0] == prefix:
            if parsed[1] in places:
                raise CheckpointError(
                    f'{places[parsed[1]]} and {key} stand for the same tensor'
                )
            places[parsed[1]] = key
        elif key in classifier_keys:
            classifier.append(key)
        elif key.startswith(prefix):
            unknown.append(key)
        else:
            rest[key] = value
    if unknown:
        raise CheckpointError(
            f'it looks like a RepVGG in the layout of {layout}, but {len(unknown)} of '
            f'its keys are not of one: {_few(unknown)}'
        )
    forms = {_form(place.part): key for place, key in places.items()}
    if 'training' in forms and 'fused' in forms:
        raise CheckpointError(
            f'it is fused in part: {forms["fused"]} is of the fused form and '
            f'{forms["training"]} of the training form'
        )
    backbone = _in_order(
        'mmseg_repvgg', {place: state_dict[key] for place, key in places.items()}
    )
    return Native(backbone, tuple(classifier), rest, recognised)


def from_native(
    backbone: Mapping[str, Tensor],
    layout: str,
    classifier: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Name a backbone's tensors as another project does.

    Args:
        backbone: By our keys, without prefix, in either form.
        layout: One of :data:`LAYOUTS`.
        classifier: ``weight`` and ``bias`` of the ImageNet classifier, to go with it.

    Returns:
        The state dict as that project's own files have it, in the order of its own
        nets: mmpretrain's begin with ``backbone.``.

    Raises:
        ConfigError: If there is no such layout, or it has no place for a classifier.
        CheckpointError: If a key is not one of ours.
    """
    if layout not in _NAMES:
        raise ConfigError(f'layout must be one of {LAYOUTS}, but got {layout!r}')
    names = _NAMES[layout]
    written = {
        names.prefix + key: value
        for key, value in _in_order(layout, _native_places(backbone)).items()
    }
    if classifier:
        if names.classifier is None:
            raise ConfigError(f'the layout of {layout} has no classifier')
        written.update({f'{names.classifier}.{k}': v for k, v in classifier.items()})
    return written


def unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """Take the state dict out of what a file holds.

    A dict of tensors is one already. Else the first of ``state_dict``,
    ``model_state_dict``, ``model``, ``state_dict_ema``, ``model_ema`` and
    ``ema_state_dict`` that is there: weights named EMA are taken only where there are
    no others. For mmengine's checkpoints that gives the EMA weights all the same, since
    they are its ``state_dict`` and ``ema_state_dict`` holds those being trained.

    ``module.`` and ``_orig_mod.`` come off where every key begins with it, and the
    counter of an averaged model with them.

    Args:
        checkpoint: What was read from a file.

    Raises:
        CheckpointError: If there is no state dict, or not all of it is tensors that a
            network can compute with.
    """
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f'it holds a {_type(checkpoint)}, not a dict of tensors or of a state_dict'
        )
    wrapper = next((w for w in WRAPPERS if _wraps(checkpoint, w)), None)
    inner = checkpoint if wrapper is None else checkpoint[wrapper]
    where = 'it' if wrapper is None else f'its {wrapper!r}'
    if not isinstance(inner, Mapping):
        raise CheckpointError(f'{where} is a {_type(inner)}, not a dict of tensors')
    if not inner:
        raise CheckpointError(f'{where} is empty')
    for key, value in inner.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f'{where} is no state dict: {key!r} is a {_type(value)}, not a tensor'
            )
        flaw = find_flaw(value)
        if flaw is not None:
            raise CheckpointError(f'{where} cannot be loaded: {key} {flaw}')
    return _without_module_prefix(dict(inner))


def fuse_state_dict(
    backbone: Mapping[str, Tensor], eps: float = 1e-5
) -> dict[str, Tensor]:
    """Fuse a backbone's tensors: what ``deploy`` does, without a model.

    Args:
        backbone: By our keys, without prefix. One that is fused already stays as it is.
        eps: What the batch norms add to the variance.

    Returns:
        The fused form by our keys, computed in float64 and cast to each kernel's dtype.

    Raises:
        CheckpointError: If a key is not one of ours, or a block is incomplete or of
            shapes that do not go together.
    """
    blocks: dict[tuple[int, int], dict[str, dict[str, Tensor]]] = {}
    for (stage, block, part, tensor), value in _native_places(backbone).items():
        parts = blocks.setdefault((stage, block), {})
        parts.setdefault(part, {})[tensor] = value
    fused: dict[_Place, Tensor] = {}
    for where, parts in blocks.items():
        kept = {part: parts[part] for part in (*_SE, 'fused') if part in parts}
        if any(_form(part) == 'training' for part in parts):
            slot = _NAMES['mmseg_repvgg'].write(_Place(*where, 'fused', 'weight'))
            slot = slot.removesuffix('.weight')
            if 'fused' in parts:
                raise CheckpointError(f'{slot} is there in both forms')
            kept['fused'] = _fuse_block(parts, eps, slot)
        for part, tensors in kept.items():
            for tensor, value in tensors.items():
                fused[_Place(*where, part, tensor)] = value
    return _in_order('mmseg_repvgg', fused)


def kernels_3x3(backbone: Mapping[str, Tensor]) -> dict[tuple[int, int], Tensor]:
    """Pick the 3x3 kernel of every block, of either form.

    Args:
        backbone: By our keys, without prefix.

    Returns:
        The kernels by stage and block, in order; the stem is stage 0, block 0.

    Raises:
        CheckpointError: If a key is not one of ours.
    """
    places = _native_places(backbone)
    return {
        place[:2]: places[place]
        for place in sorted(places)
        if place.part in ('kernel_3x3', 'fused') and place.tensor == 'weight'
    }


def _parse(layout: str, key: str) -> tuple[str, _Place] | None:
    """Read a key as prefix and place, or tell that it is none of this layout's."""
    match = _PATTERNS[layout].fullmatch(key)
    if match is None:
        return None
    part = _PART_OF[layout][match['part']]
    if match['tensor'] not in _PARTS[part]:
        return None
    stage = 0
    if match['stage'] is not None:
        stage = int(match['stage']) - _NAMES[layout].first + 1
    return match['prefix'], _Place(stage, int(match['block'] or 0), part, match['tensor'])


def _candidates(keys: Iterable[str]) -> list[Recognised]:
    """Find every backbone of two layers or more, the one with the most keys first."""
    keys = list(keys)
    counts: Counter[tuple[str, str]] = Counter()
    layers: dict[tuple[str, str], set[tuple[int, int]]] = {}
    trained: set[tuple[str, str]] = set()
    for layout in LAYOUTS:
        for key in keys:
            parsed = _parse(layout, key)
            if parsed is None:
                continue
            prefix, place = parsed
            found = (layout, prefix)
            counts[found] += 1
            layers.setdefault(found, set()).add(place[:2])
            if _form(place.part) == 'training':
                trained.add(found)
    return [
        Recognised(layout, 'training' if (layout, prefix) in trained else 'fused', prefix)
        for (layout, prefix), _ in counts.most_common()
        if len(layers[layout, prefix]) > 1
    ]


def _form(part: str) -> str | None:
    """Tell the form that a part proves; squeeze-and-excitation is in both."""
    if part in _SE:
        return None
    return 'fused' if part == 'fused' else 'training'


def _classifier_keys(layout: str, prefix: str) -> set[str]:
    """List what a classifier's keys may be: in the net itself, or beside it."""
    name = _NAMES[layout].classifier
    if name is None:
        return set()
    beside = re.sub(r'[^.]+\.$', '', prefix)
    return {f'{where}{name}.{t}' for where in (prefix, beside) for t in _CONV}


def _native_places(backbone: Mapping[str, Tensor]) -> dict[_Place, Tensor]:
    parsed = {key: _parse('mmseg_repvgg', key) for key in backbone}
    unknown = [key for key, found in parsed.items() if found is None or found[0]]
    if unknown:
        raise CheckpointError(f'no keys of a RepVGG backbone of ours: {_few(unknown)}')
    return {found[1]: backbone[key] for key, found in parsed.items() if found}


def _in_order(layout: str, places: Mapping[_Place, Tensor]) -> dict[str, Tensor]:
    """Name places as a project does, in the order of its own state dicts."""
    parts = list(_NAMES[layout].parts)

    def order(place: _Place) -> tuple[int, ...]:
        tensors = _PARTS[place.part]
        part = parts.index(place.part)
        return place.stage, place.block, part, tensors.index(place.tensor)

    return {_NAMES[layout].write(p): places[p] for p in sorted(places, key=order)}


def _wraps(checkpoint: Mapping[Any, Any], wrapper: str) -> bool:
    """Tell whether an entry is a state dict's wrapper, and not a tensor of that name."""
    return wrapper in checkpoint and not isinstance(checkpoint[wrapper], Tensor)


def _without_module_prefix(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        keys = [key for key in state_dict if key not in _COUNTERS]
        prefix = next(
            (p for p in _MODULE_PREFIXES if keys and all(k.startswith(p) for k in keys)),
            None,
        )
        if prefix is None:
            return state_dict
        state_dict = {key.removeprefix(prefix): state_dict[key] for key in keys}


def _fuse_block(
    parts: Mapping[str, Mapping[str, Tensor]], eps: float, name: str
) -> dict[str, Tensor]:
    """Fuse one block; ``name`` is what an error calls it."""
    kernel_3x3 = _kernel(parts, 'kernel_3x3', name)
    channels, width = kernel_3x3.shape[:2]
    kernels = {
        'norm_3x3': kernel_3x3,
        'norm_1x1': _kernel(parts, 'kernel_1x1', name),
    }
    if 'norm_identity' in parts:
        identity = identity_kernel(channels, channels // width)
        kernels['norm_identity'] = identity.to(kernel_3x3.device)
    shapes = {kernel.shape[:2] for kernel in kernels.values()}
    if len(shapes) > 1:
        raise CheckpointError(
            f'the branches of {name} have kernels of different shapes: '
            + ', '.join(str(tuple(kernel.shape)) for kernel in kernels.values())
        )
    convs = []
    for norm, kernel in kernels.items():
        statistics = _norm(parts, norm, channels, name)
        conv = ConvParams(kernel, torch.zeros_like(statistics['running_mean']))
        convs.append(
            fold_batch_norm(
                conv,
                statistics['running_mean'],
                statistics['running_var'],
                statistics.get('weight'),
                statistics.get('bias'),
                eps,
            )
        )
    fused = add_parallel(convs)
    return {'weight': fused.kernel.to(kernel_3x3), 'bias': fused.bias.to(kernel_3x3)}


def _kernel(parts: Mapping[str, Mapping[str, Tensor]], part: str, name: str) -> Tensor:
    size = 3 if part == 'kernel_3x3' else 1
    kernel = parts.get(part, {}).get('weight')
    if kernel is None:
        raise CheckpointError(f'{name} has no {size}x{size} kernel')
    fits = kernel.dim() == 4 and kernel.shape[2:] == (size, size) and kernel.numel()
    if not fits or not kernel.is_floating_point():
        raise CheckpointError(
            f'{name} has as its {size}x{size} kernel a {kernel.dtype} of shape '
            f'{tuple(kernel.shape)}'
        )
    return kernel


def _norm(
    parts: Mapping[str, Mapping[str, Tensor]], part: str, channels: int, name: str
) -> Mapping[str, Tensor]:
    norm = parts.get(part, {})
    for tensor in ('running_mean', 'running_var'):
        if tensor not in norm:
            raise CheckpointError(f'{name} has no {tensor} of its {part}')
    for tensor, value in norm.items():
        if tensor != 'num_batches_tracked' and value.shape != (channels,):
            raise CheckpointError(
                f'{name} has {channels} channels, but its {part} a {tensor} of shape '
                f'{tuple(value.shape)}'
            )
    return norm


def _few(items: Collection[str], most: int = 5) -> str:
    more = f' and {len(items) - most} more' if len(items) > most else ''
    return ', '.join(map(str, list(items)[:most])) + more


def _type(value: object) -> str:
    return type(value).__name__
