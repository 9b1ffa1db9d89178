"""Checkpoints that survive a crash and a full disk."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..checkpoints.files import CHECKSUM_SUFFIX, write_bytes


class AtomicBackend(LocalBackend):
    """Local files that are there whole or not at all, with a checksum beside them."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write a file under a temporary name, flush it to disk, and rename it."""
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(bytes(obj), filepath, checksum=True)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file and its checksum."""
        super().remove(filepath)
        Path(f'{filepath}{CHECKSUM_SUFFIX}').unlink(missing_ok=True)


register_backend('atomic', AtomicBackend, force=True)


class _DeferringBackend(AtomicBackend):
    """Notes what is to be removed instead of removing it."""

    def __init__(self) -> None:
        self.outdated: list[str] = []

    def remove(self, filepath: str | Path) -> None:
        self.outdated.append(str(filepath))


@HOOKS.register_module()
class CrashSafeCheckpointHook(CheckpointHook):
    """A ``CheckpointHook`` under which a crash at any moment loses nothing saved before.

    mmengine's writes onto the final name and removes the oldest file first. Here a file
    is written under a temporary name, flushed, renamed, and given a checksum; only when
    it is there are older ones removed, and ``last_checkpoint`` is replaced in one step.

    Args:
        **kwargs: As for ``CheckpointHook``; ``backend_args`` is taken.
    """

    keep_ckpt_ids: deque[int]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, backend_args=dict(backend='atomic'))

    def before_train(self, runner: Runner) -> None:
        """Get ready; what mmengine would remove from now on is removed after a save."""
        super().before_train(runner)
        self.file_backend = _DeferringBackend()
        if is_main_process():
            _sweep(Path(self.out_dir))

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict[str, Any]
    ) -> None:
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            kept = deque([*self.keep_ckpt_ids, step])
            while len(kept) > self.max_keep_ckpts:
                self.file_backend.remove(self._path(kept.popleft()))
            self.keep_ckpt_ids = kept
            runner.message_hub.update_info('keep_ckpt_ids', list(kept))
        path = self._path(step)
        self.last_ckpt = path  # type: ignore[assignment]
        runner.message_hub.update_info('last_ckpt', path)
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            latest = Path(runner.work_dir) / 'last_checkpoint'
            write_bytes(path.encode(), latest)
        self._remove_outdated()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        if not hasattr(self, 'file_backend'):
            return  # Runner.val() by itself: there is no training whose best this is
        super()._save_best_checkpoint(runner, metrics)
        self._remove_outdated()

    def _path(self, step: int) -> str:
        return self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))

    def _remove_outdated(self) -> None:
        outdated = self.file_backend.outdated
        while outdated:
            path = outdated.pop()
            if is_main_process():
                for name in (path, path + CHECKSUM_SUFFIX):
                    Path(name).unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove temporary files of a run that was killed while it wrote."""
    for kind in ('iter_*', 'epoch_*', 'best_*', 'last_checkpoint'):
        for path in folder.glob(f'.{kind}.????????'):
            path.unlink(missing_ok=True)
