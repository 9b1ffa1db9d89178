"""Importing this makes mmengine read checkpoints safely in this process.

Our configs name it in ``custom_imports``; see :mod:`.checkpoints.mmengine_patch`.
"""

from .checkpoints.mmengine_patch import make_loading_safe

make_loading_safe()
