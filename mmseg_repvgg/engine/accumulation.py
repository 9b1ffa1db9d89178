"""Global batches of any size by accumulated gradients, and the learning rate for them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import IterBasedTrainLoop
from mmseg.registry import LOOPS

from ..errors import ConfigError
from ..registry_types import is_a
from .processes import count_processes


@LOOPS.register_module()
class AccumulatingTrainLoop(IterBasedTrainLoop):
    """An ``IterBasedTrainLoop`` whose iteration is one step of the optimizer.

    mmengine's own loop counts each part of an accumulated batch as an iteration, which
    changes the meaning of the length, the learning rate, the intervals and the log, and
    may save a checkpoint between two parts. Here the dataloader yields the whole batch of
    an iteration, and the loop splits it into ``optim_wrapper.accumulative_counts`` parts
    of the same size. Batch norms see one part at a time.
    """

    def run(self) -> Any:
        """Run the training."""
        wrapper = self.runner.optim_wrapper
        parts = wrapper._accumulative_counts
        # The wrapper counts parts, but the Runner told it the number of iterations.
        wrapper.initialize_count_status(
            self.runner.model, self._iter * parts, self._max_iters * parts
        )
        return super().run()

    def run_iter(  # type: ignore[override]
        self, data_batch: Mapping[str, Sequence[Any]]
    ) -> None:
        """Take one optimizer step, and log the mean over its parts."""
        runner, step = self.runner, dict(batch_idx=self._iter, data_batch=data_batch)
        runner.call_hook('before_train_iter', **step)
        wrapper = runner.optim_wrapper
        logs = [
            runner.model.train_step(part, optim_wrapper=wrapper)
            for part in split_batch(data_batch, wrapper._accumulative_counts)
        ]
        outputs = {
            name: torch.stack([torch.as_tensor(log[name]) for log in logs]).mean(0)
            for name in logs[0]
        }
        runner.call_hook('after_train_iter', **step, outputs=outputs)
        self._iter += 1


def split_batch(
    batch: Mapping[str, Sequence[Any]], parts: int
) -> list[dict[str, Sequence[Any]]]:
    """Split a batch, a sequence for each key, into parts of the same size.

    Raises:
        ConfigError: If the length is not a multiple of ``parts``.
    """
    length = len(next(iter(batch.values())))
    if length % parts:
        raise ConfigError(
            f'AccumulatingTrainLoop splits the batch of an iteration into '
            f'optim_wrapper.accumulative_counts={parts} equal parts, but the dataloader '
            f'gave {length} images; make train_dataloader.batch_size a multiple'
        )
    size = length // parts
    return [
        {key: value[start : start + size] for key, value in batch.items()}
        for start in range(0, length, size)
    ]


def accumulate(cfg: Config, global_batch: int) -> None:
    """Give each process its share of a global batch, in parts that fit.

    ``train_dataloader.batch_size`` says how many images fit in a process.

    Raises:
        ConfigError: If the batch cannot be dealt in equal parts, or the config trains by
            another loop than mmengine's by iterations.
    """
    loop = cfg.train_cfg
    known = is_a(loop, 'IterBasedTrainLoop', 'AccumulatingTrainLoop')
    # Without a type, by_epoch chooses one of mmengine's loops.
    if not known and loop.get('by_epoch') is not False:
        raise ConfigError(
            "--global-batch needs a config with train_cfg type 'IterBasedTrainLoop', "
            f'got train_cfg={dict(loop)}'
        )
    processes, fits = count_processes(cfg), images_at_once(cfg)
    share, rest = divmod(global_batch, processes)
    if global_batch < 1 or rest or share % min(share, fits):
        raise ConfigError(
            f'--global-batch {global_batch} cannot be dealt to {processes} processes in '
            f'equal parts of train_dataloader.batch_size={fits} images'
        )
    loop.type = 'AccumulatingTrainLoop'
    loop.pop('by_epoch', None)
    cfg.train_dataloader.batch_size = share
    cfg.optim_wrapper.accumulative_counts = share // min(share, fits)


def images_at_once(cfg: Config) -> int:
    """Return how many images a process passes through the model at once."""
    batch = cfg.train_dataloader.get('batch_size', 1)
    if is_a(cfg.train_cfg, 'AccumulatingTrainLoop'):
        # Options may have changed the batch of a config that accumulates already.
        batch = max(batch // cfg.optim_wrapper.get('accumulative_counts', 1), 1)
    return batch


def batch_warnings(cfg: Config) -> list[str]:
    """Return a warning if the learning rate is meant for another global batch size."""
    recipe = cfg.get('auto_scale_lr') or {}
    parts = cfg.optim_wrapper.get('accumulative_counts', 1)
    batch = images_at_once(cfg) * parts * count_processes(cfg)
    base = recipe.get('base_batch_size', batch)
    if batch == base or recipe.get('enable'):
        return []
    return [
        f'the global batch size is {batch}, the learning rate is meant for {base}: '
        f'--global-batch {base} keeps it by accumulating gradients, --auto-scale-lr '
        'scales the learning rate'
    ]
