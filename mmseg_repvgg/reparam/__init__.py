"""Structural re-parameterization in plain PyTorch."""

from .blocks import RepConv, RepVGGBlock, ResidualBlock, SqueezeExcite
from .deploy import deploy, is_deployed
from .formulas import BLOCKS

__all__ = [
    'BLOCKS',
    'RepConv',
    'RepVGGBlock',
    'ResidualBlock',
    'SqueezeExcite',
    'deploy',
    'is_deployed',
]
