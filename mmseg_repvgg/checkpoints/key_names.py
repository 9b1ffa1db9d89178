"""The key names of RepVGG checkpoints of four projects, and how to translate them.

This project, the author's repository (https://github.com/DingXiaoH/RepVGG), mmpretrain
and timm store the same tensors under different names. :data:`NAMES` is the whole
difference. Keys are matched exactly, and an unknown key is an error.

The backbone itself uses these functions, to load a checkpoint of any layout.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from torch import Tensor

from ..errors import CheckpointError, ConfigError
from .state_dict import few

_CONV = ('weight', 'bias')
_FUSED = re.compile(r'\.conv\.(weight|bias)$')
_NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
# The parts of a block under our names, in our order, with the tensors of each.
_TENSORS = {
    'conv.branch_3x3.conv': ('weight',),
    'conv.branch_3x3.bn': _NORM,
    'conv.branch_1x1.conv': ('weight',),
    'conv.branch_1x1.bn': _NORM,
    'conv.branch_identity': _NORM,
    'conv': _CONV,
    'se.down': _CONV,
    'se.up': _CONV,
}


@dataclass(frozen=True)
class Names:
    """The names that a project gives to the parts of a RepVGG.

    Attributes:
        stages: The stem and the four stages; a stage's name precedes a block's number.
        parts: The parts of a block by our names, in the order of the project's own state
            dicts.
        prefix: What precedes the keys of the backbone in the project's own files.
        classifier: The ImageNet classifier, if the project's nets have one.
    """

    stages: tuple[str, str, str, str, str]
    parts: Mapping[str, str]
    prefix: str = ''
    classifier: str | None = None


_STAGES = ('stem', 'stage_1', 'stage_2', 'stage_3', 'stage_4')
NAMES = {
    'mmseg_repvgg': Names(_STAGES, parts={part: part for part in _TENSORS}),
    'official': Names(
        stages=('stage0', 'stage1', 'stage2', 'stage3', 'stage4'),
        parts={
            'se.down': 'se.down',
            'se.up': 'se.up',
            'conv': 'rbr_reparam',
            'conv.branch_identity': 'rbr_identity',
            'conv.branch_3x3.conv': 'rbr_dense.conv',
            'conv.branch_3x3.bn': 'rbr_dense.bn',
            'conv.branch_1x1.conv': 'rbr_1x1.conv',
            'conv.branch_1x1.bn': 'rbr_1x1.bn',
        },
        classifier='linear',
    ),
    'mmpretrain': Names(
        stages=_STAGES,
        parts={
            'conv': 'branch_reparam',
            'conv.branch_identity': 'branch_norm',
            'conv.branch_3x3.conv': 'branch_3x3.conv',
            'conv.branch_3x3.bn': 'branch_3x3.norm',
            'conv.branch_1x1.conv': 'branch_1x1.conv',
            'conv.branch_1x1.bn': 'branch_1x1.norm',
            'se.down': 'se_layer.conv1.conv',
            'se.up': 'se_layer.conv2.conv',
        },
        prefix='backbone.',
        classifier='head.fc',
    ),
    'timm': Names(
        stages=('stem', 'stages.0', 'stages.1', 'stages.2', 'stages.3'),
        parts={
            'conv': 'reparam_conv',
            'conv.branch_identity': 'identity',
            'conv.branch_3x3.conv': 'conv_kxk.conv',
            'conv.branch_3x3.bn': 'conv_kxk.bn',
            'conv.branch_1x1.conv': 'conv_1x1.conv',
            'conv.branch_1x1.bn': 'conv_1x1.bn',
            'se.down': 'attn.fc1',
            'se.up': 'attn.fc2',
        },
        classifier='head.fc',
    ),
}
LAYOUTS = tuple(NAMES)

# Variants of a layout that are read and never written.
_OLD_MMPRETRAIN = replace(
    NAMES['mmpretrain'],
    parts={
        **NAMES['mmpretrain'].parts,
        'conv.branch_3x3.bn': 'branch_3x3.bn',
        'conv.branch_1x1.bn': 'branch_1x1.bn',
    },
)
_TIMM_FEATURES_ONLY = replace(
    NAMES['timm'], stages=('stem', 'stages_0', 'stages_1', 'stages_2', 'stages_3')
)
_READ = [*NAMES.items(), ('mmpretrain', _OLD_MMPRETRAIN), ('timm', _TIMM_FEATURES_ONLY)]


@dataclass(frozen=True)
class Recognised:
    """The layout of a RepVGG backbone, as its keys tell it.

    Attributes:
        layout: One of :data:`LAYOUTS`.
        form: ``'training'`` or ``'fused'``.
        prefix: What precedes the backbone's keys, such as ``'backbone.'``, or ``''``.
        keys: Our key, without prefix, for each key of the backbone.
    """

    layout: str
    form: str
    prefix: str
    keys: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Native:
    """A state dict under the names of this project.

    Attributes:
        backbone: The backbone's tensors by our keys, without prefix, in our order.
        classifier: The original keys of the ImageNet classifier.
        rest: Tensors outside the backbone, such as those of a decode head, unchanged.
        recognised: The layout of the original.
    """

    backbone: dict[str, Tensor]
    classifier: tuple[str, ...]
    rest: dict[str, Tensor]
    recognised: Recognised


def recognise(keys: Iterable[str], own: Collection[str] = ()) -> Recognised | None:
    """Return the backbone with the most keys, or None if there is none.

    ``own`` is that of :func:`to_native`.
    """
    return next(iter(_find_backbones(keys, own)), None)


def to_native(state_dict: Mapping[str, Tensor], own: Collection[str] = ()) -> Native:
    """Translate the state dict of a backbone, or of a model that contains one.

    Args:
        state_dict: The tensors by name.
        own: The keys of a backbone whose blocks are not RepVGG's, in our order. Only our
            layout has names for them.

    Raises:
        CheckpointError: If there is no backbone or more than one, if a key under the
            backbone's prefix is unknown, or if only some blocks are fused.
    """
    found = _find_backbones(state_dict, own)
    if not found:
        raise CheckpointError(
            'it holds no RepVGG backbone in the layout of any of '
            f'{", ".join(LAYOUTS)}. Its keys: {few(state_dict) or "none"}'
        )
    if len(found) > 1:
        names = [f"{each.layout} under '{each.prefix}'" for each in found]
        raise CheckpointError(f'it holds more than one RepVGG backbone: {few(names)}')
    (recognised,) = found
    layout, prefix, ours = recognised.layout, recognised.prefix, recognised.keys
    classifier = _classifier_keys(NAMES[layout], prefix)
    others = [key for key in state_dict if key not in ours and key not in classifier]
    unknown = [key for key in others if key.startswith(prefix)]
    if unknown:
        raise CheckpointError(
            f'it looks like a RepVGG in the layout of {layout}, but {len(unknown)} of '
            f'its keys are not of one: {few(unknown)}'
        )
    # Squeeze-and-excitation and shortcuts are in both forms.
    trained = [key for key in ours if '.branch_' in ours[key]]
    fused = [key for key in ours if key not in trained and _FUSED.search(ours[key])]
    if trained and fused:
        raise CheckpointError(
            f'it is fused in part: {fused[0]} is of the fused form and {trained[0]} of '
            'the training form'
        )
    backbone = {our_key: state_dict[key] for key, our_key in ours.items()}
    order = own if backbone.keys() <= {*own} else from_native(backbone, 'mmseg_repvgg')
    return Native(
        backbone={key: backbone[key] for key in order if key in backbone},
        classifier=tuple(key for key in state_dict if key in classifier),
        rest={key: state_dict[key] for key in others},
        recognised=recognised,
    )


def from_native(
    backbone: Mapping[str, Tensor],
    layout: str,
    classifier: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Translate a backbone's state dict from our keys to those of another project.

    The backbone is in either form, without prefix. The result has the order of that
    project's own files, and may have ``weight`` and ``bias`` of an ImageNet classifier.

    Raises:
        ConfigError: If the layout is unknown, or has no name for a classifier.
        CheckpointError: If a key is not one of ours.
    """
    if layout not in NAMES:
        raise ConfigError(f'layout must be one of {LAYOUTS}, but got {layout!r}')
    names = NAMES[layout]
    table = _key_table(names, _count_blocks(backbone, NAMES['mmseg_repvgg']))
    known = set(table.values())
    unknown = [key for key in backbone if key not in known]
    if unknown:
        raise CheckpointError(f'it has keys that no backbone of ours has: {few(unknown)}')
    written = {
        names.prefix + key: backbone[ours]
        for key, ours in table.items()
        if ours in backbone
    }
    if classifier:
        if names.classifier is None:
            raise ConfigError(f'the layout of {layout} has no classifier')
        written.update({f'{names.classifier}.{k}': v for k, v in classifier.items()})
    return written


def _key_table(names: Names, depths: Iterable[int]) -> dict[str, str]:
    """Map every key that a backbone of these depths may have, in either form, to ours.

    Keys have no prefix and the order of the layout's own state dicts.
    """
    blocks = {names.stages[0]: _STAGES[0]}
    for stage, ours, depth in zip(names.stages[1:], _STAGES[1:], depths):
        blocks.update({f'{stage}.{i}': f'{ours}.{i}' for i in range(depth)})
    return {
        f'{block}.{name}.{tensor}': f'{our_block}.{part}.{tensor}'
        for block, our_block in blocks.items()
        for part, name in names.parts.items()
        for tensor in _TENSORS[part]
    }


def _find_backbones(keys: Iterable[str], own: Collection[str]) -> list[Recognised]:
    """Find all backbones, the one with the most keys first."""
    keys = list(keys)
    found: dict[str, Recognised] = {}
    for layout, names in _READ:
        more = own if layout == 'mmseg_repvgg' else ()
        # Other nets have a stem.conv.weight too, so a first block is required as well.
        stem, first = names.stages[0], f'{names.stages[1]}.0'
        for prefix in _prefixes(keys, stem, names, more) & _prefixes(
            keys, first, names, more
        ):
            inside = [key[len(prefix) :] for key in keys if key.startswith(prefix)]
            table = _key_table(names, _count_blocks(inside, names))
            table.update(zip(more, more))
            ours = {prefix + key: table[key] for key in inside if key in table}
            trained = any('.branch_' in key for key in ours.values())
            form = 'training' if trained else 'fused'
            # A variant of a layout shares most of its keys; the better match counts.
            if prefix not in found or len(ours) > len(found[prefix].keys):
                found[prefix] = Recognised(layout, form, prefix, ours)
    return sorted(found.values(), key=lambda backbone: -len(backbone.keys))


def _prefixes(
    keys: Iterable[str], block: str, names: Names, more: Iterable[str]
) -> set[str]:
    """Collect the prefixes under which there are tensors of a block, or ``more`` keys."""
    tensors = {f'{n}.{t}' for part, n in names.parts.items() for t in _TENSORS[part]}
    tensors |= {key.removeprefix(f'{block}.') for key in more}
    parts = (f'.{key}'.rpartition(f'.{block}.') for key in keys)
    return {f'{before}.'[1:] for before, _, tensor in parts if tensor in tensors}


def _count_blocks(keys: Collection[str], names: Names) -> list[int]:
    """Count the blocks of each stage up to the first number that is missing."""
    return [
        next(n for n in count() if not any(k.startswith(f'{stage}.{n}.') for k in keys))
        for stage in names.stages[1:]
    ]


def _classifier_keys(names: Names, prefix: str) -> set[str]:
    """List the keys of a classifier, inside the net or beside its backbone."""
    if names.classifier is None:
        return set()
    # The prefix without its last part: '' of 'backbone.', 'net.' of 'net.backbone.'.
    beside = prefix[: prefix.rstrip('.').rfind('.') + 1]
    return {f'{where}{names.classifier}.{t}' for where in (prefix, beside) for t in _CONV}
