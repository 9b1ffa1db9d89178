"""A training loop that accumulates gradients without changing what an iteration is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.runner import IterBasedTrainLoop
from mmseg.registry import LOOPS

from ..errors import ConfigError


@LOOPS.register_module()
class AccumulatingTrainLoop(IterBasedTrainLoop):
    """An ``IterBasedTrainLoop`` whose iteration is one step of the optimizer.

    In mmengine's own loop each part of an accumulated batch counts as an iteration, so
    that the length, the learning rate, every interval and the log mean something else
    than in a run without accumulation, and a checkpoint may fall between two parts,
    whose gradient is then lost. Here the dataloader gives the whole batch of an
    iteration and the loop cuts it into ``optim_wrapper.accumulative_counts`` parts of
    the same size.

    Batch norms see a part at a time; nothing else tells the two apart.

    Args:
        **kwargs: As for ``IterBasedTrainLoop``.
    """

    def run(self) -> Any:
        """Train."""
        wrapper, parts = self.runner.optim_wrapper, self._parts
        # The wrapper counts parts; the Runner told it the number of iterations.
        wrapper.initialize_count_status(
            self.runner.model, self._iter * parts, self._max_iters * parts
        )
        return super().run()

    @property
    def _parts(self) -> int:
        return self.runner.optim_wrapper._accumulative_counts

    def run_iter(  # type: ignore[override]
        self, data_batch: Mapping[str, Sequence[Any]]
    ) -> None:
        """Take one step of the optimizer, and log the mean over its parts.

        Args:
            data_batch: As pseudo_collate leaves it: a list for each key, with an entry
                for each image.

        Raises:
            ConfigError: If the batch cannot be cut into equal parts.
        """
        runner = self.runner
        runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        logs = [
            runner.model.train_step(part, optim_wrapper=runner.optim_wrapper)
            for part in split_batch(data_batch, self._parts)
        ]
        outputs = {
            name: torch.stack([torch.as_tensor(log[name]) for log in logs]).mean(0)
            for name in logs[0]
        }
        runner.call_hook(
            'after_train_iter',
            batch_idx=self._iter,
            data_batch=data_batch,
            outputs=outputs,
        )
        self._iter += 1


def split_batch(
    batch: Mapping[str, Sequence[Any]], parts: int
) -> list[dict[str, Sequence[Any]]]:
    """Cut a collated batch into parts of the same size.

    Args:
        batch: A sequence for each key, all of one length.
        parts: How many.

    Raises:
        ConfigError: If the length is not a multiple of ``parts``.
    """
    length = len(next(iter(batch.values())))
    if length % parts:
        raise ConfigError(
            f'AccumulatingTrainLoop cuts the batch of an iteration into '
            f'optim_wrapper.accumulative_counts={parts} equal parts, but the dataloader '
            f'gave {length} images; make train_dataloader.batch_size a multiple'
        )
    size = length // parts
    return [
        {key: value[start : start + size] for key, value in batch.items()}
        for start in range(0, length, size)
    ]
