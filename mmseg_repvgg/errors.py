"""Errors in the user's input, whose messages say what to do."""

from repvgg_runtime.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeployError,
    ExportError,
    ExtraError,
    ImageError,
    LogError,
    TrainingError,
    UserError,
    WriteError,
)

__all__ = [
    'CheckpointError',
    'ConfigError',
    'DataError',
    'DeployError',
    'ExportError',
    'ExtraError',
    'ImageError',
    'LogError',
    'TrainingError',
    'UserError',
    'WriteError',
]
