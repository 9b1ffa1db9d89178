"""Write the library that OpenVINO files of the Winograd engine need in other programs."""

import argparse
from pathlib import Path

import startup  # noqa: F401  (before torch and mmseg)

from mmseg_repvgg import cli
from repvgg_runtime.kernels.build import save_openvino_extension


def main() -> None:
    parser = argparse.ArgumentParser(
        description=f'{__doc__} Load it by core.add_extension. It is compiled for this '
        'processor; WINOGRAD_CXXFLAGS=-march=... chooses another.'
    )
    parser.add_argument('out', type=Path, help='the file to write, such as winograd.so')
    args = parser.parse_args()
    save_openvino_extension(args.out)
    print(f'written: {args.out}')


if __name__ == '__main__':
    cli.run(main)
