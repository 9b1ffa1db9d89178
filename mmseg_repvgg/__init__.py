"""RepVGG as a backbone for MMSegmentation; importing registers everything."""

import mmseg.datasets  # noqa: F401  (registers)
import mmseg.models  # noqa: F401  (registers)

from . import engine  # noqa: F401  (registers)
from .datasets import CamVidDataset
from .hooks import DeployHook
from .inference import Segmenter
from .models import RepVGG
from .reparam import deploy

__version__ = '0.1.0'

__all__ = ['CamVidDataset', 'DeployHook', 'RepVGG', 'Segmenter', '__version__', 'deploy']
