"""RepVGG as a backbone for MMSegmentation; importing registers everything."""

import io
from contextlib import redirect_stdout

with redirect_stdout(io.StringIO()):
    # It prints that it lacks an optional package; what our tools print may be JSON.
    import mmseg.datasets  # noqa: F401

from .datasets import CamVidDataset
from .engine import DeployHook
from .models import RepVGG
from .reparam import deploy

__version__ = '0.1.0'

__all__ = ['CamVidDataset', 'DeployHook', 'RepVGG', '__version__', 'deploy']
