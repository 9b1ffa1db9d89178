"""Data sets and pipeline transforms."""

from .camvid import CamVidDataset
from .transforms import LoadCheckedAnnotations, LoadCheckedImage, RandomGaussianBlur

__all__ = [
    'CamVidDataset',
    'LoadCheckedAnnotations',
    'LoadCheckedImage',
    'RandomGaussianBlur',
]
