"""Time networks against each other on one input, in several forms: docs/benchmark.md."""

import argparse
from pathlib import Path

import startup  # noqa: F401, I001  (before torch and mmseg)
import torch

from benchmarks import options
from benchmarks.benchmark import PROTOCOLS, benchmark
from benchmarks.paper import PAPER, R50
from benchmarks.report import Report
from benchmarks.runtimes import FORMS
from benchmarks.table import table
from benchmarks.tradeoff import draw_tradeoff
from mmseg_repvgg import cli
from mmseg_repvgg.analysis.curves import FORMATS, save_figure
from mmseg_repvgg.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / 'configs'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config',
        nargs='*',
        help='config file; with --backbone-only, also a name such as B0 or B2-fast; '
        "default, with --protocol paper, the six of the paper's table 8",
    )
    parser.add_argument(
        '--forms',
        nargs='+',
        metavar='FORM',
        help=f'of {", ".join(FORMS)}; default {" ".join(options.QUICK_FORMS)}, with '
        '--protocol paper all that run on a GPU and on the device',
    )
    parser.add_argument('--protocol', choices=list(PROTOCOLS), default='cpu')
    parser.add_argument('--batch', type=int, help='images in a batch')
    parser.add_argument('--size', nargs=2, type=int, metavar=('H', 'W'))
    parser.add_argument('--warmup', type=int, help='rounds that are not timed')
    parser.add_argument('--rounds', type=int, help='rounds that are timed')
    parser.add_argument(
        '--budget',
        type=float,
        metavar='SECONDS',
        help='of the whole run; no round begins later',
    )
    parser.add_argument('--threads', type=int, help='default: as many as torch takes')
    parser.add_argument(
        '--device',
        choices=['cpu', 'cuda'],
        help='default cpu, with --protocol paper cuda',
    )
    parser.add_argument(
        '--cudnn-benchmark',
        action='store_true',
        help='on a GPU, let cuDNN choose its algorithms by trial, which takes minutes',
    )
    parser.add_argument('--backbone-only', action='store_true', help='without the heads')
    parser.add_argument(
        '--checkpoint',
        nargs='+',
        default=[],
        metavar='NAME=FILE',
        help='weights of a config, named without its folder and .py; default random',
    )
    parser.add_argument(
        '--int8',
        nargs='+',
        default=[],
        metavar='NAME=FILE',
        help='made by tools/quantize.py; default: calibrated on random numbers',
    )
    parser.add_argument(
        '--baseline',
        metavar='NAME[:FORM]',
        help='to compare with; default the first config in its fastest float32 form',
    )
    parser.add_argument(
        '--memory', action='store_true', help='measure peak memory on a CPU too'
    )
    parser.add_argument(
        '--from',
        dest='measured',
        metavar='JSON',
        help='an earlier --out: show it, for example with another --baseline, or --plot '
        'it, and measure nothing',
    )
    parser.add_argument('--out', help='JSON to write after each round')
    parser.add_argument(
        '--plot',
        nargs='+',
        default=[],
        metavar='FILE',
        help=f'draw speed against mIoU, as {", ".join(FORMATS)}',
    )
    parser.add_argument(
        '--miou',
        nargs='+',
        default=[],
        metavar='NAME=VALUE',
        help="for --plot: percents, a JSON file of them, or 'paper' for the paper's own",
    )
    cli.add_common_arguments(parser)
    args = parser.parse_args()

    torch.backends.cudnn.benchmark = args.cudnn_benchmark
    if args.protocol == 'paper' and not args.config and not args.measured:
        args.config = [str(CONFIGS / f'{name}.py') for name in PAPER]
        args.baseline = args.baseline or R50
    if bool(args.config) == bool(args.measured):
        raise ConfigError('give the configs to measure, or --from an earlier --out')
    earlier = Report.load(args.measured) if args.measured else None
    names = earlier.names if earlier else [Path(config).stem for config in args.config]
    miou, origin = options.read_miou(args.miou, names)
    options.check_plots(args.plot, miou)
    if earlier is None:
        report = benchmark(
            options.sources(args, names),
            options.forms(args),
            options.protocol(args),
            threads=torch.get_num_threads() if args.threads is None else args.threads,
            device=options.device(args),
            backbone_only=args.backbone_only,
            baseline=args.baseline,
            memory=args.memory,
            on_progress=(lambda report: report.save(args.out)) if args.out else None,
        )
    else:
        report = earlier.compared_with(args.baseline or earlier.baseline)
        if args.out:
            report.save(args.out)
    print(f'\n{table(report)}')
    for path in args.plot:
        save_figure(draw_tradeoff(report, miou, origin), path)
    if written := [path for path in (args.out, *args.plot) if path]:
        print(f'\nwritten: {", ".join(written)}')


if __name__ == '__main__':
    cli.run(main)
