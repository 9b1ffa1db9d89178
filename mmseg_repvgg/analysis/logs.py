"""What a training logged: loss, learning rate and mIoU, from any log of mmengine.

Its LoggerHook writes the same to ``TIMESTAMP/TIMESTAMP.log``, lines with the time of day,
and to ``TIMESTAMP/vis_data/scalars.json``, a JSON object a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..errors import LogError
from ..special_files import refuse_special_file

# A console's lines, such as a batch system keeps, have no year, and colours around INFO.
_DATED = re.compile(r'^((?:\d{4}/)?\d\d/\d\d \d\d:\d\d:\d\d) - ')
_TRAIN = re.compile(r'(?:Iter|Epoch)\(train\)\s+(?:\[\s*(\d+)\])?\[\s*(\d+)/(\d+)\]')
_VAL = re.compile(r'(?:Iter|Epoch)\(val\)')
_VALUE = re.compile(r'(\S+): (\S+)')


@dataclass(frozen=True)
class TrainPoint:
    """One logged line of training.

    Attributes:
        iteration: Iterations done, from 1.
        loss: The total loss, a mean over the last iterations as the log has it.
        lr: The learning rate of the iteration, if it was logged.
        seconds: Time since the log began, if the log tells.
    """

    iteration: int
    loss: float
    lr: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class ValPoint:
    """One validation.

    Attributes:
        iteration: Iterations done before it.
        miou: mIoU in percent.
        seconds: Time since the log began, to its end, if the log tells.
    """

    iteration: int
    miou: float
    seconds: float | None = None


Point = TrainPoint | ValPoint


@dataclass(frozen=True)
class TrainingLog:
    """A training, in the order in which it was logged.

    Attributes:
        name: What to call it, from the names of its folders.
        points: Trainings and validations.
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
    """Read a training from whatever there is of it.

    Args:
        path: A text log, a JSON log, the folder ``TIMESTAMP`` of a run, or a work dir,
            whose runs are joined: what a later run did again replaces what an earlier
            one did, and the clock goes on from where the later one took over. A line
            that a kill left unfinished at the end is passed over.

    Returns:
        The log. Its points have ``seconds`` if the text log is there: of a file of JSON,
        in its place beside it. A text log does not say at which iteration a validation
        was; it is put at the last logged one before.

    Raises:
        LogError: If there is no log, or nothing of a training in it.
    """
    path = Path(path)
    place = path.resolve()
    if path.is_dir():
        run = place.parent if place.name == 'vis_data' else place
        runs = [run] if _is_run(run) else sorted(filter(_is_run, run.iterdir()))
        if not runs:
            raise LogError(
                f'{path} has no run in it: looked for vis_data/scalars.json and '
                f'{run.name}.log in it, and for TIMESTAMP/vis_data/scalars.json and '
                'TIMESTAMP/TIMESTAMP.log'
            )
        points = _joined([_read_run(each) for each in runs])
        name = f'{run.parent.name}/{run.name}' if runs == [run] else run.name
    else:
        points = _read_file(path)
        run = place.parent.parent if place.parent.name == 'vis_data' else place.parent
        name = f'{run.parent.name}/{run.name}' if _is_run(run) else path.stem
    if not any(isinstance(point, TrainPoint) for point in points):
        raise LogError(
            f"{path} has no training in it: looked for lines 'Iter(train) [N/MAX] … "
            'loss: X\' or \'Epoch(train) …\', and in JSON for "loss" and "iter"'
        )
    return TrainingLog(name, tuple(points))


def _is_run(folder: Path) -> bool:
    return _text_log(folder).is_file() or _json_log(folder).is_file()


def _text_log(run: Path) -> Path:
    return run / f'{run.name}.log'


def _json_log(run: Path) -> Path:
    return run / 'vis_data' / 'scalars.json'


def _read_run(run: Path) -> list[Point]:
    found = _json_log(run)
    return _read_file(found if found.is_file() else _text_log(run))


def _read_file(path: Path) -> list[Point]:
    try:
        refuse_special_file(path)
        text = path.read_text(errors='replace')
        if not text.strip():
            return []
        if not text.lstrip().startswith('{'):
            return list(_parse_text(path, text))
        points = list(_parse_json(path, text))
        timed = _text_log(path.resolve().parent.parent)
        if timed.is_file():
            return _with_seconds(points, _read_file(timed))
        return points
    except LogError:
        raise
    except OSError as error:
        raise LogError(f'{path} cannot be read: {error.strerror}') from error
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        # Another program's JSON has anything in the place of numbers.
        raise LogError(f'{path} is no log of mmengine: {error}') from error


def _parse_text(path: Path, text: str) -> Iterator[Point]:
    elapsed, iteration = 0.0, 0
    before: datetime | None = None
    # A line without its end may lack digits.
    for line in text.splitlines(keepends=True):
        dated = _DATED.match(line)
        if not dated or not line.endswith('\n'):
            continue
        now = _time_of(dated[1])
        # Clocks are set back, and a year that is not there begins anew.
        elapsed += max(0.0, (now - (before or now)).total_seconds())
        before = now
        values = {k.rsplit('/')[-1]: v for k, v in _VALUE.findall(line, dated.end())}
        found = _TRAIN.search(line)
        if found and 'loss' in values:
            epoch, step, of = found.groups()
            iteration = int(step) + (int(epoch) - 1) * int(of) if epoch else int(step)
            yield TrainPoint(iteration, float(values['loss']), _lr(values), elapsed)
        elif 'mIoU' in values and _VAL.search(line):
            yield ValPoint(iteration, float(values['mIoU']), elapsed)
    if before is None:
        raise LogError(
            f'{path} is no log of mmengine: no line begins with a date and time, and it '
            'is not of JSON objects'
        )


def _time_of(text: str) -> datetime:
    # 2000, a leap year, stands in for a year that is missing.
    text = text if text[4] == '/' else f'2000/{text}'
    return datetime.strptime(text, '%Y/%m/%d %H:%M:%S')


def _parse_json(path: Path, text: str) -> Iterator[Point]:
    iteration = 0
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
        except ValueError as error:
            if number == len(lines) and not line.endswith('\n'):
                return
            raise LogError(
                f'{path} is no log of mmengine: line {number} is not a JSON object'
            ) from error
        values = {k.rsplit('/')[-1]: v for k, v in values.items()}
        step = int(values.get('step', values.get('iter', 0)))
        if 'mIoU' in values:
            # A validation's step may be an epoch, and is then the smaller of the two.
            yield ValPoint(max(iteration, step), float(values['mIoU']))
        elif 'loss' in values:
            iteration = step
            yield TrainPoint(step, float(values['loss']), _lr(values))


def _lr(values: Mapping[str, Any]) -> float | None:
    return float(values['lr']) if 'lr' in values else None


def _with_seconds(points: Sequence[Point], timed: Sequence[Point]) -> list[Point]:
    """Give the points of a JSON log the times of the text log's, written beside them.

    While a run goes on, either may be a line ahead.
    """
    return [
        replace(point, seconds=twin.seconds)
        if twin is not None and type(point) is type(twin)
        else point
        for point, twin in zip_longest(points, timed[: len(points)])
    ]


def _joined(runs: Sequence[Sequence[Point]]) -> list[Point]:
    joined: list[Point] = []
    for points in runs:
        first = next((p.iteration for p in points if isinstance(p, TrainPoint)), None)
        if first is None:
            # Of a test, or of a training that ended before it logged a line.
            continue
        joined = [point for point in joined if point.iteration < first]
        start = joined[-1].seconds if joined else 0.0
        joined += [
            replace(
                point,
                seconds=None
                if start is None or point.seconds is None
                else start + point.seconds,
            )
            for point in points
        ]
    return joined
