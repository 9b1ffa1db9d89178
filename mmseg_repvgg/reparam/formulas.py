"""Blocks as formulas, which say what branches a block has and what layers each has.

``(3x3-bn + 1x1 + identity)-bn`` is a sum of three branches, followed by a batch norm. The
first branch is a 3x3 convolution and a batch norm. ``identity`` branches exist only in
layers whose input and output have the same shape.
"""

from typing import NamedTuple

from ..errors import ConfigError

BLOCKS = {
    # RepVGG (CVPR 2021, https://arxiv.org/abs/2101.03697), section 3.3
    'repvgg': '3x3-bn + 1x1-bn + identity-bn',
    # Table 6
    'plain': '3x3-bn',
    'no_identity': '3x3-bn + 1x1-bn',
    'no_1x1': '3x3-bn + identity-bn',
    # Table 7. Trivial re-parameterization is W + I, and (W + I) * x = W * x + x.
    'identity_without_bn': '3x3-bn + 1x1-bn + identity',
    'post_bn': '(3x3 + 1x1 + identity)-bn',
    'relu_in_branches': '3x3-bn-relu + 1x1-bn-relu + identity-bn-relu',
    'dirac': 'dirac-bn',
    'trivial': '(3x3 + identity)-bn',
    'acb': '3x3-bn + 1x3-bn + 3x1-bn',
    # QARepVGG (AAAI 2024, https://arxiv.org/abs/2212.01593), setting S4
    'qarepvgg': '(3x3-bn + 1x1 + identity)-bn',
    # MobileOne (CVPR 2023, https://arxiv.org/abs/2206.04040), section 3.3, k = 4
    'mobileone': '3x3-bn + 3x3-bn + 3x3-bn + 3x3-bn + 1x1-bn + identity-bn',
    # Constant-scale linear addition of RepOptimizers (ICLR 2023,
    # https://arxiv.org/abs/2205.15242), section 3.2
    'csla': '(3x3-scale + 1x1-scale + identity-scale)-bn',
}
"""Formulas by name."""

KERNELS = {'3x3': (3, 3), '1x1': (1, 1), '1x3': (1, 3), '3x1': (3, 1), 'dirac': (3, 3)}
"""Height and width of the kernel of each kind of convolution."""

FIRST_LAYERS = (*KERNELS, 'identity')
LATER_LAYERS = ('bn', 'scale', 'relu')


class Formula(NamedTuple):
    """The branches of a block.

    Attributes:
        branches: The layers of each branch; the first is one of :data:`FIRST_LAYERS`.
        norm: Whether a batch norm follows the sum.
    """

    branches: tuple[tuple[str, ...], ...]
    norm: bool

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of the largest kernel."""
        return max(KERNELS.get(first, (0, 0)) for first, *_ in self.branches)

    @property
    def fuses(self) -> bool:
        """Whether the block is linear, so that it is equal to one convolution."""
        return not any('relu' in branch for branch in self.branches)


def parse(block: str) -> Formula:
    """Parse a formula, or a name in :data:`BLOCKS`.

    Raises:
        ConfigError: If it is neither, or if no branch has a convolution.
    """
    formula = BLOCKS.get(block, block) if isinstance(block, str) else ''
    norm = formula.startswith('(') and formula.endswith(')-bn')
    text = formula[1:-4] if norm else formula
    branches = tuple(tuple(branch.strip().split('-')) for branch in text.split('+'))
    parsed = Formula(branches, norm)
    known = all(
        first in FIRST_LAYERS
        and set(later) <= set(LATER_LAYERS)
        and len(set(later)) == len(later)
        for first, *later in branches
    )
    if not known or parsed.kernel == (0, 0):
        raise ConfigError(
            f'block must be one of {", ".join(BLOCKS)}, or a formula such as '
            f'{BLOCKS["qarepvgg"]!r}, whose branches begin with one of '
            f'{", ".join(FIRST_LAYERS)} and continue with {", ".join(LATER_LAYERS)}, '
            f'each at most once, but got {block!r}'
        )
    return parsed
