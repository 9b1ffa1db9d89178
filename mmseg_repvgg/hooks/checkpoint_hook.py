"""Hook whose checkpoints survive a crash and a full disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..checkpoints.files import CHECKSUM_SUFFIX, write_bytes


class AtomicBackend(LocalBackend):
    """Backend that writes local files atomically, with a checksum beside them."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write a file under a temporary name, flush it to disk and rename it."""
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(bytes(obj), filepath, checksum=True)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file and its checksum."""
        super().remove(filepath)
        Path(f'{filepath}{CHECKSUM_SUFFIX}').unlink(missing_ok=True)


register_backend('atomic', AtomicBackend, force=True)


class _DeferringBackend(AtomicBackend):
    """Backend that collects the files to remove instead of removing them."""

    def __init__(self) -> None:
        self.outdated: list[str] = []

    def remove(self, filepath: str | Path) -> None:
        self.outdated.append(str(filepath))


@HOOKS.register_module()
class CrashSafeCheckpointHook(CheckpointHook):
    """A ``CheckpointHook`` that never loses a saved checkpoint in a crash.

    mmengine's hook writes onto the final name and removes the oldest file first. This one
    writes under a temporary name, flushes, renames and adds a checksum, and only then
    removes older files.

    Args:
        **kwargs: As for ``CheckpointHook``, except ``backend_args``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, backend_args=dict(backend='atomic'))

    def before_train(self, runner: Runner) -> None:
        """Defer removals until after a save, and remove leftovers of a killed run."""
        super().before_train(runner)
        self.file_backend = _DeferringBackend()
        if is_main_process():
            _sweep(Path(self.out_dir))

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict[str, Any]
    ) -> None:
        latest = Path(runner.work_dir) / 'last_checkpoint'
        if is_main_process() and (latest.is_symlink() or not latest.is_file()):
            # mmengine would write through a link, and wait for the reader of a pipe.
            latest.unlink(missing_ok=True)
        super()._save_checkpoint_with_step(runner, step, meta)
        self._remove_outdated()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        if not hasattr(self, 'file_backend'):
            return  # Runner.val() alone has no training whose best this could be.
        super()._save_best_checkpoint(runner, metrics)
        self._remove_outdated()

    def _remove_outdated(self) -> None:
        outdated = self.file_backend.outdated
        while outdated:
            path = outdated.pop()
            if is_main_process():
                for name in (path, path + CHECKSUM_SUFFIX):
                    Path(name).unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove temporary files of a run that was killed while it wrote a checkpoint."""
    for pattern in ('iter_*', 'epoch_*', 'best_*'):
        for path in folder.glob(f'.{pattern}.????????*'):
            path.unlink(missing_ok=True)
