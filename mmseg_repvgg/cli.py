"""What the command-line tools share: common arguments, and errors as one line."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from mmengine.config import DictAction

from .errors import ConfigError, UserError


class _CfgOptions(DictAction):
    """mmengine's, which unpacks what is not ``KEY=VALUE`` with a traceback."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for given in values:
            key, equals, value = given.partition('=')
            if not equals or not all(key.split('.')):
                raise ConfigError(f'--cfg-options takes KEY=VALUE, but got {given!r}')
            if any(value.count(a) != value.count(b) for a, b in ('()', '[]')):
                raise ConfigError(f'--cfg-options {given} leaves a bracket open')
        # mmengine annotates option_string as str, but passes None on.
        super().__call__(parser, namespace, values, option_string)  # type: ignore[arg-type]


def add_common_arguments(
    parser: argparse.ArgumentParser,
    *,
    launcher: bool = False,
    trust: bool = True,
    verbose: bool = False,
) -> None:
    """Add ``--cfg-options`` and the other arguments that several tools share.

    Args:
        parser: The parser of a tool.
        launcher: Whether it runs in several processes: ``--launcher``, ``--local-rank``.
        trust: Whether it reads checkpoints: ``--trust-checkpoint``.
        verbose: Whether it builds a Runner: ``--verbose``.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_CfgOptions,
        metavar='KEY=VALUE',
        help='change the config, such as model.backbone.dilation=fast; lists as "[a,b]"',
    )
    if launcher:
        parser.add_argument(
            '--launcher',
            choices=['none', 'pytorch', 'slurm', 'mpi'],
            default='none',
            help='what started the processes, if there are several',
        )
        # torchrun sets LOCAL_RANK; older launchers pass one of these.
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
            help='unpickle whatever a checkpoint holds; only for one whose origin you '
            'trust',
        )


def run(main: Callable[[], None]) -> None:
    """Run a tool; say what the user can mend in one line and exit with status 2."""
    # The stack's own, about what is as it should be here.
    for message in ('When align_corners=True', 'The draw is False'):
        warnings.filterwarnings('ignore', message)
    try:
        main()
    except UserError as error:
        sys.exit(_report(error))
    except OSError:
        # Of what was printed unbuffered, and failed, nothing is left to flush.
        _flush('\n')
        raise
    finally:
        _flush()


def _report(error: UserError) -> int:
    text = str(error)
    if 'Original Traceback' in text:
        # Raised in a worker of a DataLoader, which hands on its traceback as the text.
        text = text.rsplit(f'{type(error).__name__}: ', 1)[-1].strip()
    rank = os.environ.get('RANK')
    where = f' (rank {rank})' if rank else ''
    sys.stderr.write(f'error{where}: {text}\n')
    return 2


def _flush(more: str = '') -> None:
    """Have what was printed arrive, or exit: in place of the error of who printed it."""
    try:
        sys.stdout.write(more)
        sys.stdout.flush()
    except OSError as error:
        # Python would try again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f'error: the output cannot be written: {error.strerror}\n')
        sys.exit(2)
