"""Read and write the PNG files of a data set."""

import contextlib
import glob
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from repvgg_runtime.atomic_write import write_atomically
from repvgg_runtime.special_files import refuse_special_file

from ..errors import ImageError

# A file of a few kB may claim as many pixels as fill the memory.
_MAX_PIXELS = 1 << 26


def verify_png(path: Path) -> tuple[int, int]:
    """Verify the checksums of a PNG file; decoders accept half an image without an error.

    Returns:
        Height and width.

    Raises:
        ImageError: If the file is truncated, corrupt or not a PNG.
    """
    with _open_png(path) as image:
        image.verify()
        return image.height, image.width


def read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Read a label map, shape (H, W), and verify its checksums.

    Raises:
        ImageError: If the file is truncated, corrupt, far larger than any label map of
            these data sets, or does not have one channel of 8 bits.
    """
    height, width = verify_png(path)
    if height * width > _MAX_PIXELS:
        raise ImageError(f'{path} is not a label map: it claims {height}x{width} pixels')
    with _open_png(path) as image:
        if image.mode != 'L':
            raise ImageError(
                f'{path} is not a label map: it must have one channel of 8 bits, but got '
                f'an image of mode {image.mode}'
            )
        return np.array(image)


@contextlib.contextmanager
def _open_png(path: Path) -> Iterator[Image.Image]:
    try:
        refuse_special_file(path)
        with Image.open(path, formats=['PNG']) as image:
            yield image
    except ImageError:
        raise
    # Pillow raises errors of many types for hostile chunks.
    except Exception as error:
        raise ImageError(f'{path} cannot be read as a whole PNG: {error}') from error


def update_labels(
    path: Path, image: Path, labels: Path, table: Mapping[int, int], check: bool
) -> bool:
    """Verify an image and its labels, and write training ids to a path that lacks them.

    ``table`` gives the training id of each label. Returns whether the file was written
    or, with ``check``, would be.

    Raises:
        ImageError: If a file is broken, the sizes differ, or the table lacks a label.
        WriteError: If the file cannot be written.
    """
    size, ids = verify_png(image), read_labels(labels)
    if unknown := sorted(set(np.unique(ids).tolist()) - set(table)):
        raise ImageError(
            f'{labels} holds {unknown}, which are not labels of this data set'
        )
    if ids.shape != size:
        raise ImageError(
            f'{labels} has {ids.shape[0]}x{ids.shape[1]} pixels, but its image {image} '
            f'has {size[0]}x{size[1]}'
        )
    lookup = np.zeros(256, np.uint8)
    lookup[list(table)] = list(table.values())
    with contextlib.suppress(ImageError):
        if np.array_equal(read_labels(path), lookup[ids]):
            return False
    if not check:
        write_atomically(path, cv2.imencode('.png', lookup[ids])[1].tobytes())
    return True


def files_in(folder: Path, suffix: str) -> dict[str, Path]:
    """List the files of a folder at any depth, as mmseg's data sets find them.

    Returns:
        Each file by its path in the folder without the suffix. Hidden files, such as
        those of macOS and temporary ones, are left out.
    """
    names = glob.glob(f'**/*{suffix}', root_dir=folder, recursive=True)
    return {name.removesuffix(suffix): folder / name for name in sorted(names)}
