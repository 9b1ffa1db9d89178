"""Errors that a user can mend: each says what was got and what to do.

The tools print these as one line; everything else is a bug and keeps its traceback.
"""


class UserError(Exception):
    """Base of all errors that are about the user's input, not about our code."""


class ConfigError(UserError, ValueError):
    """An argument or a config value that is not allowed."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that is unreadable, in the wrong form or of another model."""


class DataError(UserError, FileNotFoundError):
    """A data set that is missing, empty or incomplete."""


class ImageError(UserError, OSError):
    """An image file that cannot be decoded whole."""


class WriteError(UserError, OSError):
    """A file that cannot be written, such as on a full disk."""


class ExtraError(UserError, ImportError):
    """An optional package that is needed and is not installed."""


class LogError(UserError, ValueError):
    """A log of a training that cannot be read as one, or has nothing to show."""


class TrainingError(UserError, RuntimeError):
    """A training run that cannot go on, such as one whose loss is not finite."""


class DeployError(UserError, RuntimeError):
    """A fused model that does not compute what its training form computes."""


class ExportError(DeployError):
    """An exported file that does not compute what the fused model computes."""
