"""Write what was predicted: label maps, overlays, pairs and probabilities."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from . import storage
from .atomic_write import atomic_path
from .bands import Bands, shown
from .errors import ConfigError, ImageError, WriteError
from .images import Pixels
from .inputs import Input
from .painting import blend, side_by_side
from .segmenter import BaseSegmenter, Prediction

KINDS = {
    'labels': '.png',
    'overlay': '.jpg',
    'side-by-side': '.jpg',
    'probabilities': '.npy',
}
"""Suffix of the file of each kind of output."""

PICTURES = ('overlay', 'side-by-side')
"""Kinds that are a film if the input is a video."""

IDS = ('train', 'dataset')


class Places:
    """Paths of results: a folder, with a subfolder for each kind.

    Args:
        folder: The folder, or the address of one in a store, such as ``s3://bucket/out``.
        kinds: Some of :data:`KINDS`.
    """

    def __init__(self, folder: str, kinds: Sequence[str]) -> None:
        self.folder, self.kinds = folder.rstrip('/'), tuple(kinds)

    def path(self, name: str, kind: str) -> str:
        """Return the file of an image and a kind."""
        return f'{self.folder}/{kind}/{name}{KINDS[kind]}'

    def film(self, name: str, kind: str) -> Path:
        """Return the film of a video's pictures of a kind."""
        return Path(self.folder, kind, f'{name}.mp4')

    def exist(self, name: str) -> bool:
        """Return whether all files of an image are there."""
        return all(storage.exists(self.path(name, kind)) for kind in self.kinds)

    def films_exist(self, name: str) -> bool:
        """Return whether the outputs of a video are there, judged by its MP4 files."""
        films = [kind for kind in self.kinds if kind in PICTURES]
        return bool(films) and all(self.film(name, kind).exists() for kind in films)


class Outputs:
    """Results in their places; each file is written whole or not at all.

    Args:
        places: Where and what to write.
        segmenter: Segmenter, whose palette and label ids are used.
        ids: Numbers in the label maps: ``'train'``, or ``'dataset'`` for the data set's
            own.
        opacity: Opacity of the overlays, from 0 to 1.

    Raises:
        ConfigError: If an argument is not allowed.
    """

    def __init__(
        self,
        places: Places,
        segmenter: BaseSegmenter,
        *,
        ids: str = 'train',
        opacity: float = 0.5,
    ) -> None:
        if not 0 <= opacity <= 1:
            raise ConfigError(f'the opacity must be from 0 to 1, but got {opacity}')
        if ids == 'dataset' and segmenter.label_ids is None:
            raise ConfigError(
                'the model knows no ids of its data set other than those of training: '
                'use --ids train'
            )
        self.places, self.opacity = places, opacity
        self._palette = segmenter.palette
        table = segmenter.label_ids if ids == 'dataset' else None
        self._ids = None if table is None else np.array(table, np.uint8)

    @property
    def needs_probabilities(self) -> bool:
        """Whether predictions must have probabilities."""
        return 'probabilities' in self.places.kinds

    def write(
        self,
        name: str,
        image: Bands,
        found: Prediction,
        kinds: Sequence[str] | None = None,
    ) -> None:
        """Write the files of an image, or those of some kinds.

        Raises:
            ImageError: If the format of a kind cannot hold an image of this size.
            WriteError: If a file cannot be written.
        """
        for kind in self.places.kinds if kinds is None else kinds:
            path = self.places.path(name, kind)
            storage.write(path, self._content(name, kind, image, found))

    def _content(self, name: str, kind: str, image: Bands, found: Prediction) -> bytes:
        if kind != 'probabilities':
            return _encode(self.picture(kind, image, found), KINDS[kind], name)
        data = io.BytesIO()
        assert found.probabilities is not None
        np.save(data, found.probabilities.astype(np.float16))
        return data.getvalue()

    def picture(self, kind: str, image: Bands, found: Prediction) -> npt.NDArray[Any]:
        """Return the label map (H, W), or a picture (H, W, 3), of a kind."""
        if kind == 'labels':
            return found.labels if self._ids is None else self._ids[found.labels]
        if kind == 'overlay':
            return blend(shown(image), found.labels, self._palette, self.opacity)
        return side_by_side(shown(image), [found.labels], self._palette)


def segment_batch(
    segmenter: BaseSegmenter, batch: Sequence[tuple[Input, Bands]], outputs: Outputs
) -> dict[str, str]:
    """Segment images at once and write what is asked for.

    Returns:
        Error message of each image that cannot be segmented or written, by its path.

    Raises:
        WriteError: If a file cannot be written.
    """
    images = [image for _, image in batch]
    broken: dict[str, str] = {}
    try:
        found = segmenter.predict(images, probabilities=outputs.needs_probabilities)
    except ImageError as error:
        if len(batch) == 1:
            return {batch[0][0].path: str(error)}
        for alone in batch:  # To find out which it was.
            broken.update(segment_batch(segmenter, [alone], outputs))
        return broken
    for (source, image), each in zip(batch, found):
        try:
            outputs.write(source.name, image, each)
        except ImageError as error:
            broken[source.path] = str(error)
    return broken


@contextmanager
def write_film(path: Path, rate: float) -> Iterator[Callable[[Pixels], None]]:
    """Write an MP4 file, complete or not at all.

    Args:
        path: The file.
        rate: Frames per second.

    Yields:
        A function that adds a frame, (H, W, 3), BGR uint8; all are of one size. Its last
        row or column is repeated where their number is odd.

    Raises:
        WriteError: If the file lacks frames, for example because the disk is full.
    """
    with atomic_path(path) as file:
        writer, count = cv2.VideoWriter(), 0

        def write(frame: Pixels) -> None:
            nonlocal count
            # MP4 needs even sides.
            odd = [side % 2 for side in frame.shape[:2]]
            frame = np.pad(frame, [(0, odd[0]), (0, odd[1]), (0, 0)], 'edge')
            if not count:
                code, size = cv2.VideoWriter.fourcc(*'mp4v'), frame.shape[1::-1]
                if not writer.open(str(file), code, rate, size):
                    raise WriteError(f'{path} cannot be written as an MP4 video')
            writer.write(frame)
            count += 1

        try:
            yield write
        finally:
            writer.release()
        # The writer reports no errors, so the file is opened again.
        capture = cv2.VideoCapture(str(file))
        found = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        capture.release()
        if found < count:
            raise WriteError(
                f'{path} cannot be written: it has {found} of {count} frames. '
                'Free some space or choose another folder'
            )


def _encode(picture: npt.NDArray[Any], suffix: str, name: str) -> bytes:
    try:
        done, data = cv2.imencode(suffix, picture)
    except cv2.error:
        done = False
    if not done:
        height, width = picture.shape[:2]
        raise ImageError(
            f'{name} of {width}x{height} pixels cannot be written as {suffix}. Split the '
            'image, or leave this kind out of --save'
        )
    return data.tobytes()
