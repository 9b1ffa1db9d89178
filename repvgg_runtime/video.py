"""Segment the frames of a video or a camera."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import cv2

from .errors import DataError
from .images import Pixels
from .inputs import CAMERA, Input
from .outputs import PICTURES, Outputs, write_film
from .segmenter import BaseSegmenter
from .storage import is_url, local_path


def predict_video(
    segmenter: BaseSegmenter,
    source: Input,
    outputs: Outputs,
    *,
    frames: int | None = None,
    on_done: Callable[[int], None] = lambda count: None,
) -> int:
    """Segment the frames of a video or a camera.

    Pictures become an MP4 video, label maps and probabilities a file for each frame.
    Ctrl-C ends a camera, whose video is kept; from a video it is raised.

    Args:
        segmenter: Segmenter.
        source: The video or camera.
        outputs: Where and what to write.
        frames: Largest number of frames.
        on_done: Called with 1 after each frame.

    Returns:
        The number of frames.

    Raises:
        DataError: If it cannot be opened, has no frame, or ends long before its header
            says.
        WriteError: If a file cannot be written.
    """
    capture = _capture(source)
    rate = capture.get(cv2.CAP_PROP_FPS) or 25
    length = 0 if source.is_camera else int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    pictures = [kind for kind in outputs.places.kinds if kind in PICTURES]
    files = [kind for kind in outputs.places.kinds if kind not in PICTURES]
    count = 0
    with ExitStack() as stack:
        stack.callback(capture.release)
        films: dict[str, Callable[[Pixels], None]] = {}
        try:
            for frame in _frames(capture, frames):
                for kind in pictures if not count else []:
                    path = outputs.places.film(film_name(source, frames), kind)
                    films[kind] = stack.enter_context(write_film(path, rate))
                (found,) = segmenter.predict(
                    [segmenter.read(frame)], probabilities=outputs.needs_probabilities
                )
                for kind, add in films.items():
                    add(outputs.picture(kind, frame, found))
                outputs.write(f'{source.name}/{count:06d}', frame, found, files)
                count += 1
                on_done(1)
            # Some containers only estimate their number of frames.
            if count < 0.9 * min(length, frames or length):
                raise DataError(
                    f'{source.path} ends after {count} of {length} frames: it is '
                    'truncated, and no video is kept. --frames gives a part of it'
                )
        except KeyboardInterrupt:
            if not (source.is_camera and count):
                raise
        if not count:
            hint = '. Copy it to this machine first' if is_url(source.path) else ''
            raise DataError(
                f'{source.path} cannot be opened as a video, or has no frame{hint}'
            )
    return count


def film_name(source: Input, frames: int | None) -> str:
    """Return the name of a film; that of a part of a video tells how long it is.

    Args:
        source: The video or camera.
        frames: Largest number of frames.
    """
    if frames is None or source.is_camera:
        return source.name
    return f'{source.name}_first_{frames}'


def _capture(source: Input) -> Any:
    if source.is_camera:
        return cv2.VideoCapture(int(source.path[len(CAMERA) :]))
    return cv2.VideoCapture(local_path(source.path))


def _frames(capture: Any, count: int | None) -> Iterator[Pixels]:
    """Yield frames until there are no more, at most ``count``."""
    while count is None or count > 0:
        there, frame = capture.read()
        if not there:
            return
        yield frame
        count = None if count is None else count - 1
