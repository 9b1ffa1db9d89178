"""What a Runner gets: hooks and an optimizer wrapper."""

from .autocast import BFloat16OptimWrapper
from .deploy_hook import DeployHook
from .finite_hook import FiniteHook
from .strict_load_hook import StrictLoadHook

__all__ = ['BFloat16OptimWrapper', 'DeployHook', 'FiniteHook', 'StrictLoadHook']
