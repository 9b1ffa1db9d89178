"""What MMSegmentation's MODELS registry gets."""

from .repvgg import RepVGG

__all__ = ['RepVGG']
