"""What MMSegmentation's MODELS registry gets."""

from .repvgg import RepVGG
from .sliding import SlidingEncoderDecoder
from .tta import RunningMeanTTAModel

__all__ = ['RepVGG', 'RunningMeanTTAModel', 'SlidingEncoderDecoder']
