"""List the configs of this project, or copy some with the files that they build on."""

import argparse

from repvgg_runtime.configs import copy_configs, describe_configs
from repvgg_runtime.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(
        usage='%(prog)s [-h] [--copy NAME [NAME ...] FOLDER]',
        description=__doc__,
        epilog='Every command takes a config by its name or by the path of a file.',
    )
    parser.add_argument(
        '--copy',
        nargs='+',
        metavar='NAME',
        help='configs to copy, and the folder to copy them to',
    )
    args = parser.parse_args()
    if args.copy is None:
        lines = describe_configs()
        width = max(map(len, lines)) + 2
        for name, line in lines.items():
            print(f'{name:<{width}}{line}')
        return
    *names, folder = args.copy
    if not names:
        parser.error('--copy takes at least one config and a folder')
    try:
        for copy in copy_configs(names, folder):
            print(copy)
    except UserError as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()
