"""Segment images with a checkpoint, by its fused model."""

from .segmenter import Segmenter

__all__ = ['Segmenter']
