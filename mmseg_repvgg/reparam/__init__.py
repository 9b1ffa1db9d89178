"""Structural re-parameterization in plain PyTorch."""

from .blocks import RepConv, RepVGGBlock, SqueezeExcite
from .deploy import deploy, is_deployed

__all__ = ['RepConv', 'RepVGGBlock', 'SqueezeExcite', 'deploy', 'is_deployed']
