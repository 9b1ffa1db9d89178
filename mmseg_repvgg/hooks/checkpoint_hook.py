"""Hook whose checkpoints survive a crash and a full disk."""

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..checkpoints.files import CHECKSUM_SUFFIX, write_with_checksum


class AtomicBackend(LocalBackend):
    """Backend that writes local files atomically, with a checksum beside them.

    Files are removed by :meth:`remove_outdated`, since mmengine's hook removes the oldest
    checkpoint before it writes the newest.
    """

    def __init__(self) -> None:
        self._outdated: list[str] = []

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write a file under a temporary name, flush it to disk and rename it."""
        write_with_checksum(bytes(obj), filepath)

    def remove(self, filepath: str | Path) -> None:
        """Remember a file for :meth:`remove_outdated`."""
        self._outdated.append(str(filepath))

    def remove_outdated(self) -> None:
        """Remove the remembered files and their checksums."""
        while self._outdated:
            path = self._outdated.pop()
            Path(path).unlink(missing_ok=True)
            Path(path + CHECKSUM_SUFFIX).unlink(missing_ok=True)


register_backend('atomic', AtomicBackend, force=True)


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
        """Remove temporary files of a run that was killed while it wrote a checkpoint."""
        super().before_train(runner)
        if is_main_process():
            for pattern in ('iter_*', 'epoch_*', 'best_*'):
                for path in Path(self.out_dir).glob(f'.{pattern}.????????*'):
                    path.unlink(missing_ok=True)

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict[str, Any]
    ) -> None:
        latest = Path(runner.work_dir) / 'last_checkpoint'
        if is_main_process() and (latest.is_symlink() or not latest.is_file()):
            # mmengine would write through a link, and wait for the reader of a pipe.
            latest.unlink(missing_ok=True)
        super()._save_checkpoint_with_step(runner, step, meta)
        self.file_backend.remove_outdated()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        # Runner.val() alone has no training whose best this could be.
        if hasattr(self, 'file_backend'):
            super()._save_best_checkpoint(runner, metrics)
            self.file_backend.remove_outdated()
