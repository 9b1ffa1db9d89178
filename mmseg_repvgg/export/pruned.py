"""Pruning the channels of a fused segmentor; the result is a config and a checkpoint."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor

from repvgg_runtime.extras import require

from ..checkpoints.files import write_checkpoint
from ..datasets.checks import check_dataset, check_loading
from ..engine.config_checks import check_keys, model_heads
from ..engine.load_model import load_model
from ..errors import CheckpointError, ConfigError
from ..models.archs import get_arch
from ..reparam import deploy
from .channels import LEAST, Stages, remove_channels
from .staging import staged


@dataclasses.dataclass(frozen=True)
class Pruned:
    """Files of a pruned segmentor.

    Attributes:
        config: The config of the fused form, whose ``load_from`` is the checkpoint.
        checkpoint: The checkpoint, beside the config.
        before: Channels of each layer of the backbone's stages.
        after: The same after pruning.
    """

    config: Path
    checkpoint: Path
    before: Stages
    after: Stages


def prune(
    cfg: Config,
    model: BaseModel,
    path: str | Path,
    *,
    share: float = 0.3,
    images: int = 64,
) -> Pruned:
    """Remove the channels of a fused backbone that matter least, and save the result.

    Output channels of the backbone's convolutions are removed, with the input channels of
    the layers that read them, heads included. Channels are chosen, and the remaining ones
    compensate for them, by second moments on training images (``reparam/pruning.py``).
    Nothing is trained.

    Args:
        cfg: The config of the model, with the training set; it is not changed.
        model: From :func:`~mmseg_repvgg.engine.load_model.load_model`, in any form.
        path: The config to write, ``*.py``. The checkpoint is put beside it.
        share: Share of the backbone's channels to remove, above 0 and below 0.8.
        images: Number of training images from which channels are chosen, at least 1.

    Raises:
        ConfigError: If an argument is not allowed, if the backbone is not a plain chain
            of convolutions, or if layers that read it cannot be pruned.
        DataError: If data is missing.
        ExtraError: If torch-pruning is missing.
        WriteError: If a file cannot be written. No error leaves a new file.
    """
    path = Path(path)
    if path.suffix != '.py':
        raise ConfigError(f'the config to write must be named *.py, but got {path}')
    if not 0 < share < 1 - LEAST:
        raise ConfigError(
            f'--share must be above 0 and below {1 - LEAST:g}, but got {share}'
        )
    if images < 1:
        raise ConfigError(f'--images must be at least 1, but got {images}')
    check_keys(cfg, ('train_dataloader',), 'pruning')
    check_dataset(cfg.train_dataloader.dataset)
    require('torch_pruning', 'prune')
    # The result of `deploy` shares the weights of the heads with the model.
    net: Any = copy.deepcopy(deploy(model))
    before, after = remove_channels(net, _inputs(net, cfg, images), share)
    done = Pruned(path, path.with_suffix('.pth'), before, after)
    _write(done, cfg, net, model.dataset_meta)
    return done


def _inputs(net: Any, cfg: Config, images: int) -> Iterator[Tensor]:
    """Yield preprocessed batches of the training set with at least ``images`` images."""
    loader = copy.deepcopy(cfg.train_dataloader)
    loader.update(num_workers=0, persistent_workers=False)
    loader.pop('prefetch_factor', None)  # It is for workers only.
    check_loading(loader.dataset)
    seen = 0
    for batch in Runner.build_dataloader(loader, seed=0):
        inputs = net.data_preprocessor(batch, True)['inputs']
        yield inputs
        seen += len(inputs)
        if seen >= images:
            return


def _write(done: Pruned, cfg: Config, net: Any, dataset_meta: Any) -> None:
    """Write config and checkpoint, and read them back before they are placed."""
    pruned = _pruned_config(cfg, done)
    meta = dict(cfg=pruned.pretty_text, dataset_meta=dataset_meta)
    with staged(done.config) as stage:
        pruned.dump(stage)
        checkpoint = stage.with_suffix('.pth')
        write_checkpoint(dict(meta=meta, state_dict=net.state_dict()), checkpoint)
        try:
            load_model(Config.fromfile(stage), checkpoint)
        except CheckpointError as error:
            raise ConfigError(
                'pruning needs heads with in_channels as their only width of the backbone'
            ) from error


def _pruned_config(cfg: Config, done: Pruned) -> Config:
    pruned = copy.deepcopy(cfg)
    # The tools set these for each run.
    for key in ('work_dir', 'launcher'):
        pruned.pop(key, None)
    backbone = pruned.model.backbone
    outputs = [stage[-1] for stage in done.after[1:]]
    outputs = [outputs[i] for i in backbone.get('out_indices', range(len(outputs)))]
    arch = dataclasses.asdict(get_arch(backbone.get('arch', 'B2')))
    backbone.update(arch={**arch, 'channels': done.after}, deploy=True)
    backbone.pop('init_cfg', None)
    for _, head in model_heads(pruned.model):
        at = head.get('in_index', -1)
        several = isinstance(at, (list, tuple))
        head.in_channels = [outputs[i] for i in at] if several else outputs[at]
    # mmengine replaces this by the folder of the config.
    pruned.load_from = f'{{{{ fileDirname }}}}/{done.checkpoint.name}'
    pruned.resume = False
    return pruned
