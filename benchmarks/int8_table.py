"""A table of mIoU, size and speed before and after quantization to int8."""

from functools import partial

import torch

from benchmarks.timing import time_alternating
from mmseg_repvgg.export.quantized import Quantized, missing_for_int8


def int8_table(done: Quantized, rounds: int = 31) -> str:
    """Time the forms of a quantized model by turns; return a table of mIoU, size, time.

    The speedup is over the fused model in PyTorch.
    """
    forms = list(done.contenders)
    times = time_alternating(
        {form: partial(run, done.sample) for form, run in done.contenders.items()},
        rounds=rounds,
    )
    milliseconds = [f'{times.spread(form).median * 1e3:.1f}' for form in forms]
    speedups = [f'{times.speedup(form, forms[0]).median:.2f}' for form in forms]
    sizes = f'{done.float_megabytes:.1f}', f'{done.megabytes:.1f}'
    scores = f'{done.float_miou:.2f}', f'{done.miou:.2f}'
    shape = 'x'.join(map(str, done.sample.shape))
    facts = done.metadata.quantized or {}
    layers, kept = facts['layers'], facts['kept']
    lines = [
        '',
        f'  written               {done.path}',
        f'  calibrated on         {facts["images"]} images of the training set, seed '
        f'{facts["seed"]}',
        f'  in int8               {len(layers)} of {len(layers) + len(kept)} '
        f'convolutions, {done.running} of them run so on this machine',
        '',
    ]
    timed_on = f'an image of {shape}, threads: {torch.get_num_threads()}'
    for row in (
        ('', *forms, ''),
        ('mIoU (%)', '-', *scores, f'on the {done.scored} images of validation'),
        ('size (MB)', '-', *sizes, ''),
        ('time (ms, median)', *milliseconds, timed_on),
        ('times as fast', *speedups, ''),
    ):
        lines.append('  {:<22}{:>15}{:>19}{:>16}   {}'.format(*row).rstrip())
    if done.max_drop is not None:
        lines += [
            '',
            f'  mIoU with every layer in int8   {done.whole_miou:.2f}',
            f'  kept in float32                 {", ".join(kept) or "none"}',
        ]
    if lack := missing_for_int8():
        lines += ['', f'  {lack}']
    return '\n'.join(lines)
