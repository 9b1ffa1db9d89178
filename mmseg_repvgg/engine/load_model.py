"""From a config and a checkpoint to a segmentor, where no Runner is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from ..checkpoints.files import read_checkpoint
from ..checkpoints.loading import naming_checkpoint
from ..datasets.nested import can_wait, innermost, lazily
from ..hooks.load_hook import LoadHook
from .match_form import match_form


def load_model(cfg: Config, checkpoint: str, *, trust: bool = False) -> BaseModel:
    """Build the segmentor of a config and fill the whole of it from a checkpoint.

    Reads no data set and writes nothing. What is to be measured or shipped, take from
    :func:`~mmseg_repvgg.deploy`.

    Args:
        cfg: The config; its backbone is set to the fused form if the checkpoint is fused.
        checkpoint: The file, in any layout.
        trust: Unpickle whatever it holds.

    Returns:
        The segmentor in eval mode on the CPU, in the form of the checkpoint, SyncBN
        being BN. Its ``dataset_meta`` has the classes and the palette it was trained
        with, as the checkpoint says, or else the config's test set.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit the model.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    with naming_checkpoint(checkpoint):
        stored = read_checkpoint(checkpoint, trust=trust)
        match_form(cfg, stored)
        model: Any = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
        # Of a Runner it takes the model.
        runner: Any = SimpleNamespace(model=model)
        LoadHook(strict=True).after_load_checkpoint(runner, stored)
        model.load_state_dict(stored['state_dict'])
    model.dataset_meta = stored.get('meta', {}).get('dataset_meta') or dataset_meta(cfg)
    return model


def dataset_meta(cfg: Config) -> dict[str, Any]:
    """What the config's test set says of its classes; reads no data."""
    loader = cfg.get('test_dataloader') or {}
    dataset = innermost(loader.get('dataset', {}))[0]
    return dict(lazily(dataset).metainfo) if can_wait(dataset) else {}
