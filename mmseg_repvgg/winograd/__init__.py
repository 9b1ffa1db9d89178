"""Winograd's algorithm for 3x3 convolutions on a CPU, in plain PyTorch."""

from .conv import PRECISIONS, WinogradConv2d
from .engines import ENGINES

__all__ = ['ENGINES', 'PRECISIONS', 'WinogradConv2d']
