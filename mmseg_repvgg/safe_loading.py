"""Make mmengine read checkpoints safely in this process, when imported.

Our configs name this module in ``custom_imports``. See
:mod:`mmseg_repvgg.checkpoints.mmengine_patch`.
"""

from .checkpoints.mmengine_patch import make_loading_safe

make_loading_safe()
