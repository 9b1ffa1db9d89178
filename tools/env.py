"""Show versions, processor, devices and working engines, as a bug report needs them."""

import argparse
import warnings

# startup.py would import torch and mmseg, which may be what does not work.
from repvgg_runtime import environment

PARTS = ('versions', 'processor', 'settings', 'devices', 'engines')


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.filterwarnings('ignore')
    for part in PARTS:
        print(f'{part}:')
        try:
            for name, value in getattr(environment, part)():
                print(f'  {name:<22}{value}')
        except Exception as error:  # A report is needed most where something fails.
            print(f'  {type(error).__name__}: {error}')


if __name__ == '__main__':
    main()
