"""Draw loss, learning rate and mIoU of trainings."""

import argparse
from dataclasses import replace

import startup  # noqa: F401, I001  (before torch and mmseg)

from mmseg_repvgg import cli
from mmseg_repvgg.analysis.curves import draw_curves, read_log, save_figure
from mmseg_repvgg.errors import ConfigError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'log',
        nargs='+',
        help='a work dir, whose runs are joined, the folder of a run, or its '
        'vis_data/scalars.json; several are drawn over each other',
    )
    parser.add_argument(
        '-o',
        '--out',
        default='curves.png',
        help='.png, .svg or .pdf; default %(default)s',
    )
    parser.add_argument(
        '--labels', nargs='+', metavar='NAME', help='names for the legend, one per log'
    )
    parser.add_argument(
        '--window',
        type=int,
        metavar='N',
        help='logged lines in the mean of the loss; default: a tenth; 1: no mean',
    )
    args = parser.parse_args()
    if args.labels and len(args.labels) != len(args.log):
        raise ConfigError(
            f'--labels has {len(args.labels)} names for {len(args.log)} logs'
        )

    logs = [read_log(path) for path in args.log]
    names = args.labels or [log.name for log in logs]
    if len(set(names)) < len(names) and not args.labels:
        names = args.log
    logs = [replace(log, name=name) for log, name in zip(logs, names)]
    save_figure(draw_curves(logs, args.window), args.out)
    print(f'{args.out}: {", ".join(names)}')


if __name__ == '__main__':
    cli.run(main)
