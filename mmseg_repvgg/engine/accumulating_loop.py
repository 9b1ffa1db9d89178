"""Training loop that accumulates gradients within an iteration."""

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

    mmengine's own loop counts each part of an accumulated batch as an iteration, which
    changes the meaning of the length, the learning rate, the intervals and the log, and
    may save a checkpoint between two parts. Here the dataloader yields the whole batch of
    an iteration, and the loop splits it into ``optim_wrapper.accumulative_counts`` parts
    of the same size. Batch norms see one part at a time.

    Args:
        **kwargs: As for ``IterBasedTrainLoop``.
    """

    def run(self) -> Any:
        """Run the training."""
        wrapper, parts = self.runner.optim_wrapper, self._parts
        # The wrapper counts parts, but the Runner told it the number of iterations.
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
        """Take one optimizer step, and log the mean over its parts.

        Args:
            data_batch: A list for each key with one entry per image, as pseudo_collate
                returns it.

        Raises:
            ConfigError: If the batch cannot be split into equal parts.
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
    """Split a collated batch into parts of the same size.

    Args:
        batch: A sequence for each key, all of the same length.
        parts: The number of parts.

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
