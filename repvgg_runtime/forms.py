"""Time the forms of a model against each other on one image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .bands import Bands
from .segmenter import Labels


@dataclass(frozen=True)
class TimedForm:
    """Time of a form of a model, and how far its labels agree with the first form's.

    Attributes:
        name: Name of the form.
        seconds: Median time from the image to its label map.
        agreement: Share of the pixels with the label of the first form, from 0 to 1.
    """

    name: str
    seconds: float
    agreement: float


def time_forms(
    forms: Mapping[str, Callable[[Bands], Labels]], image: Bands, repeats: int = 3
) -> list[TimedForm]:
    """Time forms on an image.

    Each runs once untimed. The forms are then timed by turns, so that a drift of the
    machine's speed affects all alike.

    Args:
        forms: See :meth:`~.segmenter.BaseSegmenter.forms`.
        image: As :meth:`~.segmenter.BaseSegmenter.read` returns it.
        repeats: Number of timed runs of each form.
    """
    labels = {name: form(image) for name, form in forms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeats):
        for name, form in forms.items():
            start = time.perf_counter()
            form(image)
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(labels.values()))
    return [
        TimedForm(
            name, statistics.median(seconds[name]), float((labels[name] == first).mean())
        )
        for name in forms
    ]
