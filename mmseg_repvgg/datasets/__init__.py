"""Data sets and pipeline transforms."""

from .camvid import CamVidDataset
from .folder_dataset import FolderDataset
from .transforms import (
    LoadBands,
    LoadCheckedAnnotations,
    LoadCheckedImage,
    RandomGaussianBlur,
)

__all__ = [
    'CamVidDataset',
    'FolderDataset',
    'LoadBands',
    'LoadCheckedAnnotations',
    'LoadCheckedImage',
    'RandomGaussianBlur',
]
