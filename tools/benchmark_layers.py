"""Measure time and error of single convolutions in each precision of the Winograd engine.

The error is the largest one against float64, relative to the largest output.
"""

import argparse

import startup  # noqa: F401, I001  (before torch and mmseg)
import torch

from benchmarks.machine import describe_machine
from benchmarks.winograd_layers import LAYERS, NUMBERS, layer_table
from mmseg_repvgg import cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--layer',
        nargs=len(NUMBERS),
        type=int,
        action='append',
        metavar=NUMBERS,
        help='may be given several times; default: layers of B2 and B1g2',
    )
    parser.add_argument(
        '--threads',
        type=cli.positive_int,
        default=torch.get_num_threads(),
        help='default: as many as torch takes',
    )
    parser.add_argument(
        '--rounds', type=cli.positive_int, default=11, help='default %(default)s'
    )
    args = parser.parse_args()

    machine = describe_machine()
    names = machine['processor'], machine['vector_instructions']
    print(*names, f'{args.threads} threads', sep=', ')
    layers = args.layer or LAYERS
    print(layer_table(layers, threads=args.threads, rounds=args.rounds))


if __name__ == '__main__':
    cli.run(main)
