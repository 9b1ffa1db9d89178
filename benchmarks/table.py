"""Format a benchmark as Markdown tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from prettytable import PrettyTable, TableStyle

from benchmarks.paper import counterparts, paper_ratio
from benchmarks.report import Report, Variant
from benchmarks.timing import Spread

Cell = Callable[[Variant], str]


def table(report: Report) -> str:
    """Return tables of times, speedups and memory, and remarks on failures.

    Args:
        report: With at least one timed round.
    """
    names = report.names
    forms = list(dict.fromkeys(variant.form for variant in report.variants))
    cells = {(variant.name, variant.form): variant for variant in report.variants}
    short = dict(zip(names, short_names(names)))

    def grid(cell: Cell, first: str = '') -> str:
        rows = [[first, *forms]]
        rows += [[short[n], *(cell(cells[n, form]) for form in forms)] for n in names]
        return _markdown(rows)

    def milliseconds(variant: Variant) -> str:
        if not variant.seconds:
            return 'failed'
        taken = report.timings.spread(variant.key).median
        text = f'{1e3 * taken:.0f}' if taken >= 0.1 else f'{1e3 * taken:.1f}'
        return f'**{text}**' if report.best(variant.name) is variant else text

    parts = [_title(report), grid(milliseconds, 'ms, median')]
    if report.reference is not None:
        where = short[report.reference.name]
        parts += [
            f'Times as fast as {where} ({report.reference.form}): median of the ratios '
            'of each round, and their quartiles',
            _ratios(report, short),
        ]
    for title, speedups in report.paper_speedups().items():
        parts += [
            f'Times as fast as {title}: median of the ratios of each round',
            _paper_grid(title, speedups, short, forms),
        ]
    if any(variant.memory for variant in report.variants):
        parts += [
            'Peak memory in MB: the model + what running it takes in addition',
            grid(_megabytes, 'MB'),
        ]
    remarks = [
        f'- {short[variant.name]}, {variant.form}: {remark}'
        for variant in report.variants
        if (remark := variant.failure or variant.note or _slow_bfloat16(report, variant))
    ]
    if remarks:
        parts.append('\n'.join(remarks))
    return '\n\n'.join(parts)


def short_names(names: Sequence[str]) -> list[str]:
    """Remove common first and last words from several names."""
    if len(names) < 2:
        return list(names)
    words = [name.split('_') for name in names]
    first = len(os.path.commonprefix(words))
    last = len(os.path.commonprefix([each[first:][::-1] for each in words]))
    short = ['_'.join(each[first : len(each) - last]) for each in words]
    return short if all(short) else list(names)


def _title(report: Report) -> str:
    batch, _, height, width = report.setup.shape
    what = 'backbone alone' if report.setup.backbone_only else 'whole segmentor'
    threads = f'{report.setup.threads} thread{"s" if report.setup.threads > 1 else ""}'
    rounds = f'{report.timings.rounds} rounds by turns after {report.warmup}'
    title = (
        f'{what}, batch {batch}, {height}x{width}, {threads}, {report.setup.device}, '
        f'{rounds}; bold: the fastest float32 form'
    )
    return title if report.complete else f'{title}. Not complete'


def _ratios(report: Report, short: dict[str, str]) -> str:
    """Return a row for each variant, with the paper's ratio beside the best form."""
    reference = report.reference
    assert reference is not None
    rows = [['', 'form', 'images/s', 'times as fast', "the paper's"]]
    for key, variant in report.timed.items():
        best = variant is report.best(variant.name)
        paper = paper_ratio(variant.name, reference.name) if best else None
        rows.append(
            [
                short[variant.name],
                f'**{variant.form}**' if best else variant.form,
                f'{report.images_per_second(variant):.3g}',
                _spread(report.timings.speedup(key, reference.key)),
                '' if paper is None else f'{paper:.2f}',
            ]
        )
    known = any(row[-1] for row in rows[1:])
    return _markdown(rows if known else [row[:-1] for row in rows])


def _slow_bfloat16(report: Report, variant: Variant) -> str | None:
    best = report.best(variant.name)
    if variant.precision != 'bfloat16' or best is None or not variant.seconds:
        return None
    if report.timings.fastest([variant.key, best.key]) == variant.key:
        return None
    return f'slower than float32 ({best.form})'


def _paper_grid(
    title: str, speedups: dict[str, Spread], short: dict[str, str], forms: Sequence[str]
) -> str:
    """Return a row for each network, with the paper's ratio first."""
    rows = [['', "the paper's", *forms]]
    for name in short:
        found = [speedups.get(f'{name}:{form}') for form in forms]
        if any(found):
            other = counterparts(name, '')[title].partition(':')[0]
            paper = paper_ratio(name, other) if other != name else None
            cells = ['' if each is None else f'{each.median:.2f}' for each in found]
            rows.append([short[name], '' if paper is None else f'{paper:.2f}', *cells])
    return _markdown(rows)


def _spread(spread: Spread) -> str:
    return f'{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})'


def _megabytes(variant: Variant) -> str:
    if variant.memory is None:
        return ''
    return f'{variant.memory.model / 1e6:.0f} + {variant.memory.run / 1e6:.0f}'


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    table = PrettyTable(rows[0], align='l')
    for row in rows[1:]:
        table.add_row(list(row))
    table.set_style(TableStyle.MARKDOWN)
    return table.get_string()
