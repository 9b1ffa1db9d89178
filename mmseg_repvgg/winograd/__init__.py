"""Winograd's algorithm for 3x3 convolutions on a CPU, in plain PyTorch."""

from .conv import WinogradConv2d
from .engines import ENGINES

__all__ = ['ENGINES', 'WinogradConv2d']
