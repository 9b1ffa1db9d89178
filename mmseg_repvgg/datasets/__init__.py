"""Data sets and what their pipelines need."""

from .camvid import CamVidDataset
from .transforms import LoadCheckedAnnotations, LoadCheckedImage, RandomGaussianBlur

__all__ = [
    'CamVidDataset',
    'LoadCheckedAnnotations',
    'LoadCheckedImage',
    'RandomGaussianBlur',
]
