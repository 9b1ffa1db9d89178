"""Measure a training step of the backbone against mmpretrain's RepVGG, or of its blocks.

The environment that `make test-peers` builds has mmpretrain: .venv-peers/bin/python.
"""

import argparse

import startup  # noqa: F401, I001  (before torch and mmseg)

from benchmarks.machine import describe_machine
from benchmarks.training_step import FORMS, training_table
from mmseg_repvgg import cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('arch', nargs='+', help='such as A0 or B1g2')
    parser.add_argument('--batch', type=int, default=8, help='default %(default)s')
    parser.add_argument(
        '--size', nargs=2, type=int, default=(256, 512), metavar=('H', 'W')
    )
    parser.add_argument(
        '--blocks',
        nargs='+',
        metavar='BLOCK',
        help='blocks to measure against the first of them, without mmpretrain',
    )
    parser.add_argument(
        '--rounds', type=cli.positive_int, default=7, help='default %(default)s'
    )
    args = parser.parse_args()

    forms = {block: dict(block=block) for block in args.blocks or ()} or FORMS
    shape = (args.batch, 3, *args.size)
    machine = describe_machine()
    print(f'{machine["processor"]}, {machine["vector_instructions"]}, images {shape}')
    for arch in args.arch:
        print(f'\n{training_table(arch, shape, rounds=args.rounds, forms=forms)}')


if __name__ == '__main__':
    cli.run(main)
