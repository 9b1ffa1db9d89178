"""A table of a segmentor before and after pruning."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from benchmarks.subjects import Setup, Source, Subject
from benchmarks.timing import time_alternating
from mmseg_repvgg.analysis.counting import Counts, count_network
from mmseg_repvgg.export.pruned import Pruned


@torch.inference_mode()
def pruning_table(
    done: Pruned,
    sources: Mapping[str, Source],
    miou: Mapping[str, float],
    size: tuple[int, int] | None = None,
    rounds: int = 31,
) -> str:
    """Count and time fused segmentors by turns; return a table of them and their mIoU.

    Args:
        done: What was pruned.
        sources: Config and checkpoint by name: before and after pruning.
        miou: mIoU by name, in percent.
        size: Height and width of the image; by default as for
            :func:`~mmseg_repvgg.analysis.counting.count_network`.
        rounds: Number of timed rounds.
    """
    counts: dict[str, Counts] = {}
    runs = {}
    for name, source in sources.items():
        setup = Setup((1, 3, 1, 1), torch.get_num_threads(), 'cpu', False, '')
        cfg = Subject(source, setup).cfg
        *_, row = count_network(name, cfg, size)
        counts[name] = row.counts
        shape = (1, cfg.model.backbone.get('in_channels', 3), *row.size)
        setup = Setup(shape, torch.get_num_threads(), 'cpu', False, '')
        subject = Subject(source, setup)
        runs[name] = partial(subject.fused, subject.input)
    times = time_alternating(runs, rounds=rounds)
    before, *_ = names = list(sources)
    removed = 1 - sum(map(sum, done.after)) / sum(map(sum, done.before))
    lines = [
        '',
        f'  config                {done.config}',
        f'  checkpoint            {done.checkpoint}',
        f'  channels removed      {removed:.1%}',
        '',
    ]
    timed_on = f'an image of {"x".join(map(str, shape))}, threads: {setup.threads}'
    rows = {
        'mIoU (%)': ([f'{miou[name]:.2f}' for name in names], 'on the test set'),
        'MACs (G)': ([f'{counts[name].macs / 1e9:.2f}' for name in names], timed_on),
        'parameters (M)': ([f'{counts[name].params / 1e6:.2f}' for name in names], ''),
        'time (ms, median)': (
            [f'{times.spread(name).median * 1e3:.1f}' for name in names],
            timed_on,
        ),
        'times as fast': (
            [f'{times.speedup(name, before).median:.2f}' for name in names],
            '',
        ),
    }
    lines.append('  {:<22}{:>12}{:>12}'.format('', *names))
    for row_name, (cells, note) in rows.items():
        lines.append('  {:<22}{:>12}{:>12}   {}'.format(row_name, *cells, note).rstrip())
    return '\n'.join(lines)
