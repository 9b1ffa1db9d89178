"""RepVGG as a backbone for MMSegmentation; importing registers everything."""

import contextlib
import io
import warnings

# mmseg prints that it lacks an optional package, where a program may print JSON, and mmcv
# advises to install a package that would overwrite it.
with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Fail to import')
    import mmseg.datasets
    import mmseg.models  # noqa: F401

from . import engine  # noqa: F401  (registers)
from .datasets import CamVidDataset
from .hooks import DeployHook
from .inference import Segmenter
from .models import RepVGG
from .reparam import deploy

__version__ = '0.1.0'

__all__ = ['CamVidDataset', 'DeployHook', 'RepVGG', 'Segmenter', '__version__', 'deploy']
