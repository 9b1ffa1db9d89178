"""The HTML page of a report: one file that needs no other and no network."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..errors import ConfigError
from .boundary import NEAR
from .calibration import BINS
from .confusion import largest_confusions, precision, recall
from .gallery import Pane
from .numbers import DATA_ID, Numbers
from .regions import FOUND, LARGE, SIZE_EDGES, SMALL

LIMIT = 10_000_000
"""Most bytes of a page."""

Pictures = Sequence[tuple[int, list[Pane]]]
"""Index of an image in the data set, and its panes, for each picture."""

MATRIX_CLASSES = 30
"""Most classes of the matrix."""

CONFUSIONS = 15
"""Number of pairs of classes in the list."""

_HERE = Path(__file__).parent


def picture_bytes(images: int) -> int:
    """Return how many bytes of pictures a page about a number of images has room for."""
    # A megabyte is for what does not depend on the images; base64 adds a third.
    return max(0, (LIMIT - 1_000_000 - 500 * images) * 3 // 4)


def render(
    numbers: Numbers,
    palette: Sequence[Sequence[int]],
    pictures: Pictures = (),
    form_pictures: Pictures = (),
    others: Sequence[tuple[str, Numbers]] = (),
) -> bytes:
    """Return the page as UTF-8, of at most :data:`LIMIT` bytes.

    Args:
        numbers: From :func:`~mmseg_repvgg.report.numbers.collect`.
        palette: An RGB colour for each class.
        pictures: The worst images. The last ones are left out if the page is too large.
        form_pictures: The images on which the forms differ most.
        others: Names and numbers of the runs to compare with.

    Raises:
        ConfigError: If the page is too large without any picture.
    """
    pictures = list(pictures)
    while True:
        page = _render(numbers, palette, pictures, form_pictures, others).encode()
        if len(page) <= LIMIT:
            return page
        if not pictures:
            raise ConfigError(
                f'the report would have {len(page) / 1e6:.1f} MB, more than '
                f'{LIMIT / 1e6:.0f} MB, without any picture. Report on fewer images'
            )
        pictures.pop()


def _render(
    numbers: Numbers,
    palette: Sequence[Sequence[int]],
    pictures: Pictures,
    form_pictures: Pictures,
    others: Sequence[tuple[str, Numbers]],
) -> str:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, change=_change, data_url=_data_url)
    style, script = ((_HERE / f'page.{kind}').read_text() for kind in ('css', 'js'))
    images = numbers['images']
    ranked = [i for i, image in enumerate(images) if image['error'] is not None]
    ranked.sort(key=lambda i: -images[i]['error'])
    return environment.get_template('page.html').render(
        n=numbers,
        data_id=DATA_ID,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        others=others,
        colours=['#{:02x}{:02x}{:02x}'.format(*colour) for colour in palette],
        classes=_class_rows(numbers, others),
        matrix=_matrix(numbers),
        confusions=_confusions(numbers),
        bands=_bands(numbers),
        sizes=_sizes(numbers),
        class_sizes=_class_sizes(numbers),
        reliability=_reliability(numbers),
        ranked=ranked,
        unlabelled=len(images) - len(ranked),
        earlier=_earlier_errors(others),
        pictures=pictures,
        form_pictures=form_pictures,
        near=NEAR,
        bins=BINS,
        found=FOUND,
        small=SIZE_EDGES[SMALL],
        large=SIZE_EDGES[LARGE],
    )


def _percent(share: float | None, digits: int = 1) -> str:
    return '–' if share is None else f'{100 * share:.{digits}f}'


def _change(new: float | None, old: float | None, digits: int = 2) -> str:
    """Return a difference in percentage points, with its sign."""
    return '–' if new is None or old is None else f'{100 * (new - old):+.{digits}f}'


def _data_url(data: bytes) -> str:
    return 'data:image/webp;base64,' + base64.b64encode(data).decode()


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _class_rows(numbers: Numbers, others: Sequence[tuple[str, Numbers]]) -> list[Any]:
    confusion = np.array(numbers['confusion'])
    shares = confusion.sum(1) / max(confusion.sum(), 1)
    columns = zip(recall(confusion), precision(confusion))
    return [
        dict(
            number=number,
            name=numbers['classes'][number],
            share=float(shares[number]),
            iou=numbers['iou'][number],
            recall=_or_none(values[0]),
            precision=_or_none(values[1]),
            near=numbers['near_iou'][number],
            far=numbers['far_iou'][number],
            earlier=[other['iou'][number] for _, other in others],
        )
        for number, values in enumerate(columns)
    ]


def _matrix(numbers: Numbers) -> dict[str, Any]:
    """Return the rows of the confusion matrix, of the classes with most errors."""
    confusion = np.array(numbers['confusion'])
    pixels, predicted = confusion.sum(1), confusion.sum(0)
    present = np.flatnonzero(pixels + predicted)
    wrong = pixels + predicted - 2 * np.diagonal(confusion)
    chosen = sorted(present[np.argsort(-wrong[present])][:MATRIX_CLASSES].tolist())
    rows = []
    for truth in chosen:
        cells = []
        for label in chosen:
            share = float(confusion[truth, label] / max(pixels[truth], 1))
            # The root makes rare confusions visible.
            level = 0 if share < 0.005 else min(1 + int(9 * share**0.5), 9)
            kind = 'right' if truth == label else 'wrong'
            text = f'{100 * share:.0f}' if level else ''
            cells.append(dict(share=share, text=text, kind=f'{kind} l{level}'))
        rows.append(dict(number=truth, cells=cells, empty=not pixels[truth]))
    return dict(chosen=chosen, rows=rows, present=len(present))


def _confusions(numbers: Numbers) -> list[Any]:
    confusion = np.array(numbers['confusion'])
    wrong = confusion.sum() - np.trace(confusion)
    return [
        dict(
            truth=truth,
            label=label,
            pixels=pixels,
            of_errors=_share(pixels, wrong),
            of_class=_share(pixels, confusion[truth].sum()),
        )
        for truth, label, pixels in largest_confusions(confusion, CONFUSIONS)
    ]


def _ranges(edges: Sequence[int]) -> list[str]:
    names = [f'{low}–{high}' for low, high in zip(edges, edges[1:])]
    return [*names, f'≥ {edges[-1]}']


def _bands(numbers: Numbers) -> list[Any]:
    bands = numbers['bands']
    total, errors = sum(bands['pixels']), sum(bands['wrong'])
    columns = zip(_ranges(bands['edges']), bands['pixels'], bands['wrong'], bands['miou'])
    widths = [*(f'< {edge}' for edge in bands['edges'][1:]), 'all']
    return [
        dict(
            name=name,
            value=_share(wrong, pixels),
            of_pixels=_share(pixels, total),
            of_errors=_share(wrong, errors),
            width=width,
            miou=miou,
        )
        for (name, pixels, wrong, miou), width in zip(columns, widths)
    ]


def _sizes(numbers: Numbers) -> list[Any]:
    found = numbers['regions']
    names = [name.replace('–', '²–') + '²' for name in _ranges(found['edges'])]
    names[0] = f'< {found["edges"][1]}²'
    sums = [np.sum(found[key], 0) for key in ('regions', 'found', 'pixels', 'correct')]
    return [
        dict(
            name=name,
            regions=int(regions),
            found=_share(hits, regions),
            value=_share(correct, pixels),
        )
        for name, regions, hits, pixels, correct in zip(names, *sums)
    ]


def _class_sizes(numbers: Numbers) -> list[Any]:
    """Return number and recall of small, medium and large regions of each class."""
    found = {key: np.array(value) for key, value in numbers['regions'].items()}
    groups = (slice(SMALL), slice(SMALL, LARGE), slice(LARGE, None))
    return [
        dict(
            number=number,
            groups=[
                dict(
                    regions=int(found['regions'][number, group].sum()),
                    recall=_share(
                        found['correct'][number, group].sum(),
                        found['pixels'][number, group].sum(),
                    ),
                )
                for group in groups
            ],
        )
        for number in np.flatnonzero(found['regions'].sum(1)).tolist()
    ]


def _reliability(numbers: Numbers) -> dict[str, Any]:
    sums = numbers['reliability']
    total = sum(sums['pixels'])
    columns = zip(sums['pixels'], sums['correct'], sums['confidence'])
    bins = [
        dict(
            share=pixels / max(total, 1),
            accuracy=_share(correct, pixels),
            confidence=_share(confidence, pixels),
        )
        for pixels, correct, confidence in columns
    ]
    return dict(bins=bins, confidence=_share(sum(sums['confidence']), total))


def _earlier_errors(others: Sequence[tuple[str, Numbers]]) -> dict[str, float | None]:
    """Return the errors of the images in the first of the other runs."""
    if not others:
        return {}
    return {image['path']: image['error'] for image in others[0][1]['images']}
