"""Read loss, learning rate and mIoU from the logs of a training.

mmengine's LoggerHook writes them to ``TIMESTAMP/vis_data/scalars.json`` in the work dir,
a JSON object a line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repvgg_runtime.special_files import refuse_special_file

from ..errors import LogError

_FILE = Path('vis_data', 'scalars.json')


@dataclass(frozen=True)
class TrainPoint:
    """One logged line of training.

    Attributes:
        iteration: Iterations done, from 1.
        loss: The total loss, as logged a mean over the last iterations.
        lr: The learning rate, if it was logged.
    """

    iteration: int
    loss: float
    lr: float | None = None


@dataclass(frozen=True)
class ValPoint:
    """One validation.

    Attributes:
        iteration: Iterations done before it.
        miou: mIoU in percent.
    """

    iteration: int
    miou: float


Point = TrainPoint | ValPoint


@dataclass(frozen=True)
class TrainingLog:
    """A training, in the order in which it was logged.

    Attributes:
        name: Its name in a legend.
        points: Lines of training and validations.
    """

    name: str
    points: tuple[Point, ...]

    @property
    def training(self) -> list[TrainPoint]:
        """The logged lines of training."""
        return [point for point in self.points if isinstance(point, TrainPoint)]

    @property
    def validations(self) -> list[ValPoint]:
        """The validations that gave an mIoU."""
        return [point for point in self.points if isinstance(point, ValPoint)]


def read_log(path: str | Path) -> TrainingLog:
    """Read the log of a training that has ended, goes on, or was killed.

    Args:
        path: A work dir, the folder ``TIMESTAMP`` of a run, or a ``scalars.json``. The
            runs of a work dir are joined: from its first iteration on, a resumed run
            replaces the earlier ones.

    Raises:
        LogError: If there is no log, or no training in it.
    """
    path = Path(path)
    name = path.resolve().name
    if (path / _FILE).is_file():
        files = [path / _FILE]
        name = f'{path.resolve().parent.name}/{name}'
    elif path.is_dir():
        files = sorted(path.glob(f'*/{_FILE}'))
    else:
        files, name = [path], path.stem
    points: list[Point] = []
    for file in files:
        run = _read_file(file)
        first = next((p.iteration for p in run if isinstance(p, TrainPoint)), None)
        # A test, or a training that was killed early, has logged no training.
        if first is not None:
            points = [point for point in points if point.iteration < first] + run
    if not points:
        raise LogError(
            f'{path} has no log of a training: expected a scalars.json with "loss" and '
            '"iter", or a folder with vis_data/scalars.json or */vis_data/scalars.json'
        )
    return TrainingLog(name, tuple(points))


def _read_file(path: Path) -> list[Point]:
    try:
        refuse_special_file(path)
        lines = path.read_text(errors='replace').splitlines(keepends=True)
    except OSError as error:
        raise LogError(f'{path} cannot be read: {error.strerror}') from error
    points: list[Point] = []
    for number, line in enumerate(lines, 1):
        # A killed run may leave its last line unfinished.
        if number == len(lines) and not line.endswith('\n'):
            break
        try:
            point = _point(json.loads(line), points)
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
            raise LogError(
                f'{path} is not a scalars.json of mmengine: line {number} is not an '
                f'object of logged numbers ({error})'
            ) from error
        points += [point] if point else []
    return points


def _point(values: dict[str, Any], before: list[Point]) -> Point | None:
    # An evaluator may put a prefix before its metrics.
    values = {key.rsplit('/')[-1]: value for key, value in values.items()}
    step = int(values.get('step', values.get('iter', 0)))
    if 'mIoU' in values:
        # The step of a validation may be its epoch, which is smaller than the iteration.
        iteration = max([step, *(point.iteration for point in before[-1:])])
        return ValPoint(iteration, float(values['mIoU']))
    if 'loss' in values:
        lr = float(values['lr']) if 'lr' in values else None
        return TrainPoint(step, float(values['loss']), lr)
    return None
