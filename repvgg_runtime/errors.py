"""Errors in the user's input, whose messages say what to do.

The tools print these in one line; any other exception keeps its traceback.
"""


class UserError(Exception):
    """Base class of errors in the user's input."""


class ConfigError(UserError, ValueError):
    """An argument or a config value that is not allowed."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that is unreadable, in the wrong form or of another model."""


class DataError(UserError, FileNotFoundError):
    """A data set that is missing, empty or incomplete."""


class ImageError(UserError, OSError):
    """An image file that cannot be decoded completely."""


class WriteError(UserError, OSError):
    """A file that cannot be written, such as on a full disk."""


class ExtraError(UserError, ImportError):
    """An optional package that is needed but not installed."""


class LogError(UserError, ValueError):
    """A training log that cannot be read or has nothing to plot."""


class TrainingError(UserError, RuntimeError):
    """A training that cannot continue, such as one whose loss is not finite."""


class DeployError(UserError, RuntimeError):
    """A fused model that does not compute what its training form computes."""


class ExportError(DeployError):
    """An exported file that does not compute what the fused model computes."""
