"""Segmentors from a config and a checkpoint, without a Runner."""

import os
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from ..checkpoints.files import read_checkpoint
from ..checkpoints.key_names import recognise
from ..checkpoints.loading import naming_checkpoint
from ..checkpoints.state_dict import extract_state_dict
from ..datasets.checks import build_lazily, leaf_datasets, supports_lazy_init
from ..hooks.load_hook import fit_checkpoint
from ..registry_types import is_a


def load_model(
    cfg: Config, checkpoint: str | os.PathLike[str], *, trust: bool = False
) -> BaseModel:
    """Build the segmentor of a config and fill the whole of it from a checkpoint.

    Reads no data set and writes nothing. Pass the result to :func:`~mmseg_repvgg.deploy`
    to measure or ship it.

    Args:
        cfg: The config; its backbone is set to the fused form if the checkpoint is fused.
        checkpoint: The file, in any layout.
        trust: Unpickle whatever it holds.

    Returns:
        The segmentor in eval mode on the CPU, in the form of the checkpoint, with BN for
        SyncBN. Its ``dataset_meta`` has the classes and the palette of the training, or
        those of the config's test set if the checkpoint has none.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit the model.
    """
    checkpoint = os.fspath(checkpoint)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    with naming_checkpoint(checkpoint):
        stored = read_checkpoint(checkpoint, trust=trust)
        match_form(cfg, stored)
        if cfg.get('data_preprocessor'):
            # As a Runner does.
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        model: Any = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
        fit_checkpoint(stored, model, strict=True)
        model.load_state_dict(stored['state_dict'])
    model.dataset_meta = stored.get('meta', {}).get('dataset_meta') or dataset_meta(cfg)
    return model


def dataset_meta(cfg: Config) -> dict[str, Any]:
    """Return the classes and the palette of the config's test set; reads no data."""
    loader = cfg.get('test_dataloader') or {}
    dataset = leaf_datasets(loader.get('dataset', {}))[0]
    return dict(build_lazily(dataset).metainfo) if supports_lazy_init(dataset) else {}


def image_bands(cfg: Config) -> int:
    """Return the number of bands of the images that a config's backbone takes."""
    return (cfg.model.get('backbone') or {}).get('in_channels', 3)


def match_form(cfg: Config, checkpoint: Any) -> None:
    """Make a config with RepVGG build the fused form if a checkpoint is fused.

    Raises:
        CheckpointError: If it holds no weights.
    """
    backbone = cfg.model.get('backbone', {})
    own = ()
    if is_a(backbone, 'RepVGG') and backbone.get('residual'):
        # Its keys are those of no other project.
        with torch.device('meta'):
            own = MODELS.build(backbone).own_keys()
    found = recognise(extract_state_dict(checkpoint), own)
    fused = found is not None and found.form == 'fused'
    if fused and is_a(backbone, 'RepVGG') and not backbone.get('deploy'):
        backbone.deploy = True
        print_log(
            'the checkpoint is fused: the model is built in the fused form', 'current'
        )
