"""Count parameters and operations of networks in both forms: docs/counting.md."""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

import startup  # noqa: F401, I001  (before torch and mmseg)

from mmseg_repvgg import cli
from mmseg_repvgg.analysis.counting import FORMATS, count_network, show
from mmseg_repvgg.engine.config import network_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'network',
        nargs='+',
        help='config file, or an architecture such as B0, B2-fast or B2-full',
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help="of the image; default: a config's window or else its crop, 224x224 of an "
        'architecture',
    )
    parser.add_argument(
        '--classifier',
        action='store_true',
        help="count the backbone with ImageNet's linear layer too, as the paper does",
    )
    parser.add_argument('--format', choices=FORMATS, default='table')
    cli.add_common_arguments(parser, trust=False)
    args = parser.parse_args()

    rows = []
    with redirect_stdout(sys.stderr):
        for given in args.network:
            rows += count_network(
                Path(given).stem,
                network_config(given, args.cfg_options),
                tuple(args.size) if args.size else None,
                classifier=args.classifier,
            )
    print(show(rows, args.format))


if __name__ == '__main__':
    cli.run(main)
