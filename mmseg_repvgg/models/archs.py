"""The RepVGG architectures and the plan of their layers, as data.

Tables 2 and 3 and section 4.3 of RepVGG (Ding et al., CVPR 2021,
https://arxiv.org/abs/2101.03697). D2se and the grouping of layers follow the author's
code (https://github.com/DingXiaoH/RepVGG). Strides, dilations and branches are decided
here, before anything is built.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import ConfigError

DEPTHS_A = (2, 4, 14, 1)
DEPTHS_B = (4, 6, 16, 1)
DEPTHS_D = (8, 14, 24, 1)

# Dilation of stages 2 to 5 at output stride 8. The paper gives no rates; these are the
# rates of the author's PSPNet example.
STAGE_RATES = (1, 1, 2, 4)
FAST_LAYERS = 5
DILATIONS = ('full', 'fast', None)


@dataclasses.dataclass(frozen=True)
class Arch:
    """One architecture.

    Attributes:
        depths: Layers of stages 2 to 5; stage 1 is always one layer, the stem.
        a: Width multiplier of stages 1 to 4, unless there are ``channels``.
        b: Width multiplier of stage 5, unless there are ``channels``.
        groups: Groups of every second layer, beginning with the third of the net.
        se: Whether every block has squeeze-and-excitation.
        channels: Channels of each layer of stages 1 to 5, where layers of a stage differ
            in width, as in a pruned net. By default, the ``widths`` of the stages.
    """

    depths: tuple[int, int, int, int]
    a: float
    b: float
    groups: int = 1
    se: bool = False
    channels: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        depths, groups = self.depths, self.groups
        counts = tuple(depths) if isinstance(depths, Sequence) else ()
        if len(counts) != 4 or not all(map(is_count, counts)):
            raise ConfigError(
                'depths of an arch must be 4 numbers of layers, each at least 1, for '
                f'stages 2 to 5, but got {depths!r}'
            )
        object.__setattr__(self, 'depths', counts)
        for name in ('a', 'b'):
            value = getattr(self, name)
            # NaN fails this comparison as well.
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ConfigError(
                    f'{name} of an arch must be a positive number, but got {value!r}'
                )
        if not is_count(groups):
            raise ConfigError(
                f'groups of an arch must be a positive integer, but got {groups!r}'
            )
        channels = tuple(
            tuple(stage) if isinstance(stage, Sequence) else (stage,)
            for stage in self.channels
        ) or tuple((width,) * n for width, n in zip(self.widths, (1, *counts)))
        later = [width for stage in channels[1:] for width in stage]
        if (
            [len(stage) for stage in channels] != [1, *counts]
            or not all(map(is_count, (*channels[0], *later)))
            or any(width % groups for width in later)
        ):
            raise ConfigError(
                f'channels of an arch must be 5 lists with {(1, *counts)} positive '
                f'integers, those of stages 2 to 5 divisible by groups={groups}, but got '
                f'{channels}'
            )
        object.__setattr__(self, 'channels', channels)

    @property
    def widths(self) -> tuple[int, int, int, int, int]:
        """Channels of stages 1 to 5 by the multipliers."""
        a, b = self.a, self.b
        return min(64, int(64 * a)), int(64 * a), int(128 * a), int(256 * a), int(512 * b)


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_FIELDS = tuple(field.name for field in dataclasses.fields(Arch))
# Depths, a and b of Tables 2 and 3, each for 1, 2 or 4 groups (section 3.4).
_TABLE = {
    'A0': (DEPTHS_A, 0.75, 2.5),
    'A1': (DEPTHS_A, 1, 2.5),
    'A2': (DEPTHS_A, 1.5, 2.75),
    'B0': (DEPTHS_B, 1, 2.5),
    'B1': (DEPTHS_B, 2, 4),
    'B2': (DEPTHS_B, 2.5, 5),
    'B3': (DEPTHS_B, 3, 5),
}
ARCHS: dict[str, Arch] = {
    name + suffix: Arch(*fields, groups)
    for name, fields in _TABLE.items()
    for suffix, groups in (('', 1), ('g2', 2), ('g4', 4))
}
ARCHS['D2se'] = Arch(DEPTHS_D, 2.5, 5, se=True)


def get_arch(arch: str | Mapping[str, Any] | Arch) -> Arch:
    """Return the architecture of a name in :data:`ARCHS` or of the fields of ``Arch``.

    Raises:
        ConfigError: If the name, a field or a field's value is not allowed.
    """
    if isinstance(arch, Arch):
        return arch
    if isinstance(arch, Mapping):
        if set(arch) - set(_FIELDS) or {'depths', 'a', 'b'} - set(arch):
            raise ConfigError(
                f'an arch dict takes {_FIELDS} and needs depths, a and b, but got '
                f'{dict(arch)!r}'
            )
        return Arch(**arch)
    if not isinstance(arch, str) or arch not in ARCHS:
        raise ConfigError(
            f'arch must be one of {", ".join(ARCHS)}, or a dict of {_FIELDS}, but got '
            f'{arch!r}'
        )
    return ARCHS[arch]


@dataclasses.dataclass(frozen=True)
class Layer:
    """Geometry of one layer of the net.

    Attributes:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride as built: 1 where dilation replaces it.
        dilation: Dilation of the 3x3 conv.
        groups: Groups of both convs.
        identity: Whether the training form has an identity branch. The stride of the
            undilated net decides, so that all dilations of an arch have the same weights.
    """

    in_channels: int
    out_channels: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    identity: bool = False


def plan(
    arch: Arch, dilation: str | None = None, in_channels: int = 3
) -> tuple[tuple[Layer, ...], ...]:
    """Lay out every layer of a net.

    Args:
        arch: The architecture.
        dilation: None for output stride 32 without dilation. ``'full'`` for output
            stride 8 with every 3x3 conv of the last two stages dilated, by 2 and 4.
            ``'fast'`` for output stride 8 with only the last 5 layers of the net dilated,
            by the same rates (section 4.3).
        in_channels: Channels of the image.

    Returns:
        The layers of the five stages. The first stage is the stem.

    Raises:
        ConfigError: If ``dilation`` is unknown.
    """
    if dilation not in DILATIONS:
        raise ConfigError(
            f"dilation must be 'full', 'fast' or None, but got {dilation!r}"
        )
    ((first,), *later) = arch.channels
    # The index of the first dilated layer, if its stage has a rate above 1.
    start = {'full': 1, 'fast': 1 + sum(arch.depths) - FAST_LAYERS, None: math.inf}
    stages: list[tuple[Layer, ...]] = [(Layer(in_channels, first, stride=2),)]
    index, previous = 1, first
    for widths, rate in zip(later, STAGE_RATES):
        stage = []
        for position, width in enumerate(widths):
            stride = 1 if position else 2
            stage.append(
                Layer(
                    previous,
                    width,
                    stride=1 if dilation and rate > 1 else stride,
                    dilation=rate if index >= start[dilation] else 1,
                    groups=arch.groups if index % 2 == 0 else 1,
                    identity=previous == width and stride == 1,
                )
            )
            index, previous = index + 1, width
        stages.append(tuple(stage))
    return tuple(stages)


KernelShapes = list[list[tuple[int, ...]]]
"""The shapes of the 3x3 kernels of each stage, the stem being the first stage."""


def infer_arch(backbone: Mapping[str, Tensor]) -> Arch | None:
    """Infer the architecture of a backbone from the shapes of its tensors.

    They have our keys, without prefix, in either form. The last stages may be missing.

    Returns:
        One of :data:`ARCHS` if the tensors fit it, otherwise one with a single layer in
        each missing stage; None if no RepVGG has these shapes.
    """
    shapes, se = kernel_shapes(backbone), has_se(backbone)
    if len(shapes) < 2:
        return None
    candidates = [*ARCHS.values(), *_of_these_widths(shapes, se)]
    fitting = [arch for arch in candidates if arch.se == se and _fits(arch, shapes)]
    return fitting[0] if fitting else None


def _of_these_widths(shapes: KernelShapes, se: bool) -> list[Arch]:
    """Return the architecture whose layers have the widths of these kernels, if any."""
    try:
        layers = [shape for stage in shapes for shape in stage]
        groups = max(x[0] // y[1] for x, y in zip(layers, layers[1:]))
        widths = [tuple(shape[0] for shape in stage) for stage in shapes]
        channels = (*widths, *[(groups,)] * (5 - len(shapes)))
        d2, d3, d4, d5 = map(len, channels[1:])
        return [Arch((d2, d3, d4, d5), 1, 1, groups, se, channels)]
    except (LookupError, ZeroDivisionError, ConfigError):
        return []


def _fits(arch: Arch, shapes: KernelShapes) -> bool:
    stages = plan(arch, None, in_channels(shapes))[: len(shapes)]
    return shapes == [
        [(layer.out_channels, layer.in_channels // layer.groups, 3, 3) for layer in stage]
        for stage in stages
    ]


def kernel_shapes(backbone: Mapping[str, Tensor]) -> KernelShapes:
    """Collect the shapes of the 3x3 kernels, up to the last stage that has any."""
    stages: KernelShapes = [[], [], [], [], []]
    for key, value in backbone.items():
        stage, *_ = key.split('.')
        if key.endswith('.conv.weight') and '.branch_1x1.' not in key:
            stages[0 if stage == 'stem' else int(stage[-1])].append(tuple(value.shape))
    while stages and not stages[-1]:
        stages.pop()
    return stages


def has_se(backbone: Mapping[str, Tensor]) -> bool:
    """Return whether a backbone has squeeze-and-excitation."""
    return any('.se.' in key for key in backbone)


def in_channels(shapes: KernelShapes) -> int:
    """Return the number of channels of the image; 3 if the shapes do not tell."""
    stem = shapes[0][0] if shapes and shapes[0] else ()
    return stem[1] if len(stem) == 4 and stem[1] else 3
