"""Hook whose checkpoints survive a crash and a full disk."""

from inspect import signature
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..checkpoints.files import CHECKSUM_SUFFIX, write_with_checksum
from ..errors import ConfigError


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
        # mmengine passes what it does not know on to save_checkpoint, hours later.
        own = [*signature(CheckpointHook).parameters]
        own.remove('backend_args')
        known = {*own, *signature(Runner.save_checkpoint).parameters} - {'backend_args'}
        if unknown := kwargs.keys() - known:
            raise ConfigError(
                f'CrashSafeCheckpointHook takes no {", ".join(sorted(unknown))}, only '
                f'{", ".join(own)}'
            )
        super().__init__(**kwargs, backend_args=dict(backend='atomic'))

    def before_train(self, runner: Runner) -> None:
        """Find the best checkpoint, and remove temporary files of a killed run."""
        super().before_train(runner)
        if self.save_best is not None:
            self._keep_to_work_dir(runner.message_hub)
        if is_main_process():
            for pattern in ('iter_*', 'epoch_*', 'best_*'):
                for path in Path(self.out_dir).glob(f'.{pattern}.????????*'):
                    path.unlink(missing_ok=True)

    def _keep_to_work_dir(self, hub: MessageHub) -> None:
        """Forget a best checkpoint of another work dir, which would be removed.

        The checkpoint that is resumed from names it. In a work dir that was moved or
        copied, it is the file of the same name.
        """
        several, folder = len(self.key_indicators) > 1, Path(self.out_dir)
        for name in self.key_indicators:
            suffix = f'_{name}' if several else ''
            path = hub.runtime_info.get(f'best_ckpt{suffix}')
            if path is None or Path(path).parent.resolve() == folder.resolve():
                continue
            moved = folder / Path(path).name
            kept = str(moved) if moved.is_file() else None
            if kept:
                hub.update_info(f'best_ckpt{suffix}', kept)
            else:
                for key in ('best_ckpt', 'best_score'):
                    hub.runtime_info.pop(f'{key}{suffix}', None)
            if several:
                self.best_ckpt_path_dict[name] = kept
            else:
                self.best_ckpt_path = kept

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict[str, Any]
    ) -> None:
        super()._save_checkpoint_with_step(runner, step, meta)
        self.file_backend.remove_outdated()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        # Runner.val() alone has no training whose best this could be.
        if hasattr(self, 'file_backend'):
            missing = {*(self.save_best or [])} - {'auto', *metrics}
            if missing:
                raise ConfigError(
                    f'default_hooks.checkpoint.save_best names {", ".join(missing)}, but '
                    f'the evaluator gives {", ".join(metrics)}: set it to one of these'
                )
            super()._save_best_checkpoint(runner, metrics)
            self.file_backend.remove_outdated()
