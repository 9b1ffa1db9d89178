"""What the command-line tools share: common arguments, and errors as one line."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable

from mmengine.config import DictAction

from .errors import UserError


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, ``--launcher`` and ``--local-rank``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change the config, such as model.backbone.dilation=fast; lists as "[a,b]"',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes, if there are several',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='unpickle whatever a checkpoint holds; only for one whose origin you trust',
    )
    # torchrun sets LOCAL_RANK; older launchers pass one of these.
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0)


def run(main: Callable[[], None]) -> None:
    """Run a tool; say what the user can mend in one line and exit with status 2."""
    # The stack's own, about what is as it should be here.
    for message in ('When align_corners=True', 'The draw is False'):
        warnings.filterwarnings('ignore', message)
    try:
        main()
    except UserError as error:
        sys.exit(_report(error))


def _report(error: UserError) -> int:
    text = str(error)
    if 'Original Traceback' in text:
        # Raised in a worker of a DataLoader, which hands on its traceback as the text.
        text = text.rsplit(f'{type(error).__name__}: ', 1)[-1].strip()
    rank = os.environ.get('RANK')
    where = f' (rank {rank})' if rank else ''
    sys.stderr.write(f'error{where}: {text}\n')
    return 2
