"""Draw a small street data set in the folder layout of Cityscapes."""

import argparse

import startup  # noqa: F401, I001  (before torch and mmseg)

from demo.street import DEFAULT_COUNTS, DEFAULT_SIZE, write_street_scenes
from mmseg_repvgg import cli


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('root', help='folder to make: new, empty, or with the same set')
    for split, count in DEFAULT_COUNTS.items():
        parser.add_argument(
            f'--{split}', type=int, default=count, metavar='N', help='images'
        )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=DEFAULT_SIZE,
        metavar=('H', 'W'),
        help='height and width in pixels',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the generator')
    args = parser.parse_args()

    counts = {split: getattr(args, split) for split in DEFAULT_COUNTS}
    written = write_street_scenes(args.root, counts, tuple(args.size), args.seed)
    scenes = ' + '.join(f'{count} {split}' for split, count in counts.items())
    height, width = args.size
    verb = 'wrote' if written else 'kept'
    print(f'{verb} {scenes} scenes of {height}x{width} in {args.root}')


if __name__ == '__main__':
    cli.run(main)
