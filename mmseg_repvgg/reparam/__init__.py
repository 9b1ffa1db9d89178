"""Structural re-parameterization in plain PyTorch."""

from .blocks import RepConv, RepVGGBlock, SqueezeExcite
from .deploy import deploy, is_deployed
from .engines import ENGINES
from .winograd import WinogradConv2d

__all__ = [
    'ENGINES',
    'RepConv',
    'RepVGGBlock',
    'SqueezeExcite',
    'WinogradConv2d',
    'deploy',
    'is_deployed',
]
