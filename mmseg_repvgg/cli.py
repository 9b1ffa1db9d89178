"""Common arguments of the command-line tools, and their errors in one line."""

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

from mmengine.config import DictAction

from .errors import ConfigError, UserError
from .winograd import PRECISIONS


class _CfgOptions(DictAction):
    """mmengine's ``DictAction`` with errors for options that are not ``KEY=VALUE``."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: Any = None
    ) -> None:
        for given in values:
            key, equals, value = given.partition('=')
            if not equals or not all(key.split('.')):
                raise ConfigError(f'--cfg-options takes KEY=VALUE, but got {given!r}')
            if any(value.count(a) != value.count(b) for a, b in ('()', '[]')):
                raise ConfigError(f'--cfg-options {given} has an unclosed bracket')
        super().__call__(parser, namespace, values, option_string)


def positive_int(text: str) -> int:
    """Return an argument that must be a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f'it must be a whole number of at least 1, but is {text!r}'
        )
    return int(text)


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--precision``, which is None unless it is given."""
    parser.add_argument(
        '--precision',
        choices=list(PRECISIONS),
        help='of --engine winograd: highest (default), float32; on a CPU with AMX high, '
        'two bfloat16 numbers for each number, and medium, bfloat16; on another CPU '
        'larger tiles, less exact',
    )


def add_common_arguments(
    parser: argparse.ArgumentParser,
    *,
    launcher: bool = False,
    trust: bool = True,
    verbose: bool = False,
) -> None:
    """Add ``--cfg-options``, and those of the other shared arguments that a tool takes.

    ``launcher`` stands for ``--launcher`` and ``--local-rank``.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_CfgOptions,
        metavar='KEY=VALUE',
        help='change the config, such as model.backbone.dilation=fast; lists as "[a,b]", '
        'tuples as "(a,b)"',
    )
    if launcher:
        parser.add_argument(
            '--launcher',
            choices=['none', 'pytorch', 'slurm', 'mpi'],
            default='none',
            help='what started the processes, if several',
        )
        # torchrun sets LOCAL_RANK, but older launchers pass one of these.
        parser.add_argument(
            '--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS
        )
    if verbose:
        parser.add_argument(
            '--verbose',
            action='store_true',
            help='show config, environment and hooks, which are in the log file anyway',
        )
    if trust:
        parser.add_argument(
            '--trust-checkpoint',
            action='store_true',
            help='unpickle whatever a checkpoint holds; only for checkpoints you trust',
        )


def run(main: Callable[[], None]) -> None:
    """Run a tool; print a UserError in one line and exit with status 2.

    SIGTERM ends the tool as an exception does, so that no temporary file is left.
    """
    # One of several processes may wait for the others where no Python handler runs.
    if 'RANK' not in os.environ:
        # An exit by an exception removes temporary files.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # mmseg warns of settings that are intended here.
    for message in ('When align_corners=True', 'The draw is False'):
        warnings.filterwarnings('ignore', message)
    try:
        main()
    except UserError as error:
        text = str(error)
        if 'Original Traceback' in text:
            # A worker of a DataLoader passes its traceback on as the text.
            text = text.rsplit(f'{type(error).__name__}: ', 1)[-1].strip()
        rank = os.environ.get('RANK')
        where = f' (rank {rank})' if rank else ''
        sys.stderr.write(f'error{where}: {text}\n')
        sys.exit(2)
    except KeyboardInterrupt:
        # The status of a command that Ctrl-C ended.
        sys.stderr.write('interrupted\n')
        sys.exit(130)
    except OSError:
        # If printing itself failed, so does this, which exits with a clear error.
        _flush('\n')
        raise
    finally:
        _flush()


def _flush(more: str = '') -> None:
    """Flush stdout; exit with status 2 on failure."""
    try:
        sys.stdout.write(more)
        sys.stdout.flush()
    except OSError as error:
        # Otherwise Python tries to flush again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `| head` is no error.
            sys.stderr.write(f'error: the output cannot be written: {error.strerror}\n')
        sys.exit(2)
