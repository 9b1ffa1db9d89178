"""The models that this package adds to MMSegmentation's registry."""

from .repvgg import RepVGG
from .tta import RunningMeanTTAModel

__all__ = ['RepVGG', 'RunningMeanTTAModel']
