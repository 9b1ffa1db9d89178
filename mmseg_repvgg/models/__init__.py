"""The models that this package adds to MMSegmentation's registry."""

from .preprocessor import BandDataPreProcessor
from .repvgg import RepVGG
from .tta import RunningMeanTTAModel

__all__ = ['BandDataPreProcessor', 'RepVGG', 'RunningMeanTTAModel']
