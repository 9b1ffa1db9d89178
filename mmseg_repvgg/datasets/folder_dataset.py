"""A data set of your own: a folder of images and a folder of masks."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from repvgg_runtime.storage import files_below

from ..errors import ConfigError, DataError
from .checks import checked_pipeline

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
# A name, and a colour or none, separated by blanks or commas.
_CLASS = re.compile(r'(.+?)(?:[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\d+))?')


@DATASETS.register_module()
class FolderDataset(BaseSegDataset):
    """Images of any usual format, each with a mask of the same name, a PNG.

    A mask has one channel with the number of each pixel's class, from 0 on, and 255 where
    pixels do not count; or it has the colours of ``metainfo``, in three channels, by a
    palette of its own, or in one channel if all of these are greys.

    Args:
        metainfo: ``classes``, their names in the order of the numbers; and ``palette``,
            their RGB colours, which masks of colours need.
        ignored_colors: Colours of a mask that do not count.
        **kwargs: As for ``BaseSegDataset``: ``data_root``, ``data_prefix`` and, to use
            some images only, ``ann_file``, which has the name of one on each line.

    Raises:
        ConfigError: If ``metainfo`` has no classes.
    """

    def __init__(
        self,
        metainfo: Mapping[str, Any] | None = None,
        ignored_colors: Sequence[Sequence[int]] = (),
        **kwargs: Any,
    ) -> None:
        given = dict(metainfo or {})
        if not given.get('classes'):
            raise ConfigError(
                "FolderDataset needs the names of the classes: metainfo=dict(classes=('a'"
                ", 'b')), or train --data FOLDER --classes FILE"
            )
        # mmseg makes up a palette where there is none, which masks cannot have.
        self.colors = {tuple(c): i for i, c in enumerate(given.get('palette') or ())}
        ignored = kwargs.get('ignore_index', 255)
        self.colors.update({tuple(color): ignored for color in ignored_colors})
        # mmseg's own LoadAnnotations knows no colours.
        kwargs['pipeline'] = checked_pipeline(kwargs.get('pipeline') or [], {})
        # Messages name the suffix.
        suffixes = f'{{{",".join(IMAGE_SUFFIXES)}}}'
        super().__init__(metainfo=given, img_suffix=suffixes, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images, each with the path of its mask if there is a folder of masks.

        Raises:
            DataError: If two images have one name, or the list names one that is missing
                or is not in UTF-8.
        """
        images = _images_in(Path(self.data_prefix['img_path']))
        names = _read_names(Path(self.ann_file), images) if self.ann_file else images
        masks = self.data_prefix.get('seg_map_path')
        samples = []
        for name in names:
            sample: dict[str, Any] = dict(
                img_path=str(images[name]),
                colors=self.colors,
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            if masks is not None:
                sample['seg_map_path'] = f'{masks}/{name}{self.seg_map_suffix}'
            samples.append(sample)
        return samples


def _images_in(folder: Path) -> dict[str, Path]:
    """Return the images of a folder, at any depth, by their names without suffixes.

    Hidden files and folders, such as ``.ipynb_checkpoints``, are left out.
    """
    images: dict[str, Path] = {}
    for file in sorted(map(Path, files_below(str(folder)))):
        hidden = any(part.startswith('.') for part in file.parts)
        if file.suffix.lower() in IMAGE_SUFFIXES and not hidden:
            name, path = file.with_suffix('').as_posix(), folder / file
            if name in images:
                raise DataError(
                    f'{images[name]} and {path} would have the same mask. Rename or '
                    'remove one of them'
                )
            images[name] = path
    return images


def _read_names(file: Path, images: Mapping[str, Path]) -> list[str]:
    """Return the names that a list gives, without suffixes."""
    if not file.is_file():
        raise DataError(f'the list of images {file} does not exist')
    names = []
    for line in filter(None, map(str.strip, _read_text(file).splitlines())):
        name = line if line in images else Path(line).with_suffix('').as_posix()
        if name not in images:
            raise DataError(f'{file} lists {line}, but there is no such image')
        names.append(name)
    return names


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise DataError(f'{file} is not in UTF-8 ({error}). Save it in UTF-8') from error


def read_classes(file: Path) -> dict[str, Any]:
    """Read the names of classes, one on each line, in the order of their numbers.

    A colour, three numbers from 0 to 255, may follow a name, separated by blanks or
    commas. ``ignore`` names a colour of pixels that do not count. ``#`` begins a comment.

    Args:
        file: The text file.

    Returns:
        ``metainfo`` and ``ignored_colors`` of :class:`FolderDataset`.

    Raises:
        ConfigError: If the file does not exist, does not name 2 to 255 different classes,
            or gives some of them no colour or one colour to two.
        DataError: If it is not in UTF-8.
    """
    if not file.is_file():
        raise ConfigError(f'the file of classes {file} does not exist')
    table = []
    for line in _read_text(file).splitlines():
        if match := _CLASS.fullmatch(line.partition('#')[0].strip()):
            name, *color = match.groups()
            table.append((name, [int(number) for number in color if number]))
    colors = [color for _, color in table]
    classes = [(name, color) for name, color in table if name != 'ignore']
    names = [name for name, _ in classes]
    if not 2 <= len(set(names)) == len(names) <= 255:
        raise ConfigError(
            f'{file} must name 2 to 255 different classes, but names {len(names)}, '
            f'{len(set(names))} of them different'
        )
    if not any(colors):
        return dict(metainfo=dict(classes=names), ignored_colors=[])
    wrong = [
        name
        for name, color in table
        if not color or max(color) > 255 or colors.count(color) > 1
    ]
    if wrong:
        raise ConfigError(
            f'{file} must give each class, or none, a colour of its own, three numbers '
            f'from 0 to 255; look at {", ".join(wrong)}'
        )
    palette = [color for _, color in classes]
    ignored = [color for name, color in table if name == 'ignore']
    return dict(metainfo=dict(classes=names, palette=palette), ignored_colors=ignored)
