"""Keep the model of a training for use."""

from pathlib import Path

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..checkpoints.loading import find_resumable
from .segmenter import Segmenter


def save_best(runner: Runner, *, data: str, command: str) -> tuple[Path, str]:
    """Write the best model of a finished training; ``from_pretrained`` reads the folder.

    Args:
        runner: It has trained, in its work dir.
        data: What it trained on, for the model card.
        command: The command that trained it, for the card.

    Returns:
        The folder ``segmenter`` in the work dir, and the checkpoint of the model.
    """
    found = runner.message_hub.runtime_info
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    measures = hook.key_indicators if hook.save_best is not None else ['mIoU']
    suffix = f'_{measures[0]}' if len(measures) > 1 else ''
    best = found.get(f'best_ckpt{suffix}') or find_resumable(runner.work_dir)
    assert best is not None, 'a training that ended has written a checkpoint'
    score = found.get(f'best_score{suffix}')
    name = f'{measures[0]}, validation'
    segmenter = Segmenter(runner.cfg, best, engine='torch', device='cpu')
    folder = segmenter.save_pretrained(
        Path(runner.work_dir, 'segmenter'),
        metrics=None if score is None else {name: round(float(score), 2)},
        data=data,
        command=command,
    )
    return folder, best
