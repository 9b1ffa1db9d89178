"""Measure the Winograd engine: speed against a peer, exactness, memory, scaling."""

import argparse
from collections.abc import Sequence

import startup  # noqa: F401, I001  (before torch and mmseg)
import torch

from benchmarks.subjects import Setup, Source
from benchmarks.timing import Spread
from benchmarks.winograd_figures import (
    FORM_OF_PRECISION,
    Speed,
    measure_errors,
    measure_growth,
    measure_memory,
    measure_speed,
)
from mmseg_repvgg import cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of a RepVGG network, taken fully dilated')
    parser.add_argument('peer', help='config of the network to compare with')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        action='append',
        metavar=('H', 'W'),
        help='of the image, may be given several times; default 256 512 and 713 713',
    )
    parser.add_argument(
        '--rounds', type=cli.positive_int, default=9, help='to time; default 9'
    )
    parser.add_argument(
        '--threads',
        type=cli.positive_int,
        default=torch.get_num_threads(),
        help='default: as many as torch takes',
    )
    parser.add_argument(
        '--precision',
        choices=FORM_OF_PRECISION,
        default='highest',
        help='of the engine in all networks; default highest',
    )
    parser.add_argument('--backbone-only', action='store_true', help='without the heads')
    parser.add_argument(
        '--speed-only',
        action='store_true',
        help='without exactness, memory and growth',
    )
    cli.add_common_arguments(parser)
    args = parser.parse_args()

    options = args.cfg_options or {}
    ours, peer = Source('ours', args.config, options), Source('peer', args.peer, options)
    sizes = [tuple(size) for size in args.size or [(256, 512), (713, 713)]]
    setups = [
        Setup((1, 3, *size), args.threads, 'cpu', args.backbone_only, '')
        for size in sizes
    ]
    part = 'backbone' if args.backbone_only else 'whole segmentor'
    how = f'{part}, {args.threads} threads, {args.precision}'
    print(f'{args.config} against {args.peer}: {how}')
    for setup in setups:
        speed = measure_speed(
            ours, peer, setup, precision=args.precision, rounds=args.rounds
        )
        show_speed(speed)
    if not args.speed_only:
        show_costs(ours, setups, args.precision)


def show_costs(ours: Source, setups: Sequence[Setup], precision: str) -> None:
    sizes = [(setup.shape[2], setup.shape[3]) for setup in setups]
    errors = measure_errors(ours, setups[0], precision)
    ratios = (errors.winograd / other for other in (errors.direct, errors.channels_last))
    print(f"""
largest error against float64, of the largest number, {text(sizes[0])}
  direct                       {errors.direct:.1e}
  direct, channels last        {errors.channels_last:.1e}
  winograd                     {errors.winograd:.1e}   \
{' and '.join(f'{ratio:.2f}x' for ratio in ratios)}""")
    memory = measure_memory(ours, setups[-1], precision)
    direct, winograd = (peak.total / 2**20 for peak in memory)
    print(f"""
peak memory over an empty process, {text(sizes[-1])}
  direct, channels last        {direct:,.0f} MiB
  winograd                     {winograd:,.0f} MiB   {winograd / direct:.2f}x""")
    growth = measure_growth(ours, setups[0], precision=precision)
    print('\ntime by size, winograd')
    for size, seconds in growth.seconds.items():
        print(f'  {text(size):<28} {1e3 * seconds:.0f} ms')
    print(f'  slope of log time over log pixels: {growth.slope:.3f}')


def show_speed(speed: Speed) -> None:
    timings = speed.timings
    print(f'\n{text(speed.size)}, {timings.rounds} rounds: median, ms')
    for name in timings.seconds:
        print(f'  {name:<28} {1e3 * timings.spread(name).median:.1f}')
    print('  ratio of times, median (quartiles)')
    for name, ratio in speed.ratios().items():
        print(f'    {name:<46} {spread(ratio)}')


def spread(ratio: Spread) -> str:
    return f'{ratio.median:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})'


def text(size: tuple[int, int]) -> str:
    return 'x'.join(map(str, size))


if __name__ == '__main__':
    cli.run(main)
