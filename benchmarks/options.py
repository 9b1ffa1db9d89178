"""The arguments of ``tools/benchmark.py``, and what they ask for."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.benchmark import PROTOCOLS
from benchmarks.paper import PAPER
from benchmarks.report import Protocol
from benchmarks.runtimes import FORMS
from benchmarks.subjects import Source
from mmseg_repvgg.analysis.curves import FORMATS, check_format
from mmseg_repvgg.errors import ConfigError
from repvgg_runtime.special_files import refuse_special_file

QUICK_FORMS = ('training', 'fused', 'channels-last')


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments, except those that all tools share."""
    parser.add_argument(
        'config',
        nargs='*',
        help='config file; with --backbone-only, also a name such as B0 or B2-fast; '
        "default, with --protocol paper, the six of the paper's table 8",
    )
    parser.add_argument(
        '--forms',
        nargs='+',
        metavar='FORM',
        help=f'of {", ".join(FORMS)}; default {" ".join(QUICK_FORMS)}, with '
        '--protocol paper all that run on a GPU and on the device',
    )
    parser.add_argument('--protocol', choices=list(PROTOCOLS), default='cpu')
    parser.add_argument('--batch', type=int, help='images in a batch')
    parser.add_argument('--size', nargs=2, type=int, metavar=('H', 'W'))
    parser.add_argument('--warmup', type=int, help='rounds that are not timed')
    parser.add_argument('--rounds', type=int, help='rounds that are timed')
    parser.add_argument(
        '--budget',
        type=float,
        metavar='SECONDS',
        help='of the whole run; no round begins later',
    )
    parser.add_argument('--threads', type=int, help='default: as many as torch takes')
    parser.add_argument(
        '--device',
        choices=['cpu', 'cuda'],
        help='default cpu, with --protocol paper cuda',
    )
    parser.add_argument(
        '--cudnn-benchmark',
        action='store_true',
        help='on a GPU, let cuDNN choose its algorithms by trial, which takes minutes',
    )
    parser.add_argument('--backbone-only', action='store_true', help='without the heads')
    parser.add_argument(
        '--checkpoint',
        nargs='+',
        default=[],
        metavar='NAME=FILE',
        help='weights of a config, named without its folder and .py; default random',
    )
    parser.add_argument(
        '--int8',
        nargs='+',
        default=[],
        metavar='NAME=FILE',
        help='made by tools/quantize.py; default: calibrated on random numbers',
    )
    parser.add_argument(
        '--baseline',
        metavar='NAME[:FORM]',
        help='to compare with; default the first config in its fastest float32 form',
    )
    parser.add_argument(
        '--memory', action='store_true', help='measure peak memory on a CPU too'
    )
    parser.add_argument(
        '--from',
        dest='measured',
        metavar='JSON',
        help='an earlier --out: show it, for example with another --baseline, or --plot '
        'it, and measure nothing',
    )
    parser.add_argument('--out', help='JSON to write after each round')
    parser.add_argument(
        '--plot',
        nargs='+',
        default=[],
        metavar='FILE',
        help=f'draw speed against mIoU, as {", ".join(FORMATS)}',
    )
    parser.add_argument(
        '--miou',
        nargs='+',
        default=[],
        metavar='NAME=VALUE',
        help="for --plot: percents, a JSON file of them, or 'paper' for the paper's own",
    )


def device(args: Namespace) -> str:
    """Return the device to measure on."""
    return args.device or ('cuda' if args.protocol == 'paper' else 'cpu')


def forms(args: Namespace) -> list[str]:
    """Return the forms to measure.

    Raises:
        ConfigError: If one is given twice.
    """
    if args.forms is None:
        paper = [
            name for name, form in FORMS.items() if form.on_gpu and 'phases' not in name
        ]
        chosen = paper if args.protocol == 'paper' else QUICK_FORMS
        return [name for name in chosen if device(args) == 'cuda' or FORMS[name].on_cpu]
    if len(set(args.forms)) < len(args.forms):
        raise ConfigError(f'--forms {" ".join(args.forms)} names one twice')
    return args.forms


def protocol(args: Namespace) -> Protocol:
    """Return the protocol with the numbers that the arguments replace.

    Raises:
        ConfigError: If the budget is negative or NaN.
    """
    if args.budget is not None and not args.budget >= 0:
        raise ConfigError(f'--budget must be at least 0 seconds, but got {args.budget}')
    given = {
        key: value
        for key in ('batch', 'size', 'warmup', 'rounds', 'budget')
        if (value := getattr(args, key)) is not None
    }
    if 'size' in given:
        given['size'] = tuple(given['size'])
    return replace(PROTOCOLS[args.protocol], **given)


def sources(args: Namespace, names: Sequence[str]) -> list[Source]:
    """Return the networks to measure.

    Raises:
        ConfigError: If a checkpoint or an int8 file is not given as ``NAME=FILE``.
    """
    checkpoints = named_values('--checkpoint', args.checkpoint, names)
    int8 = named_values('--int8', args.int8, names)
    return [
        Source(
            name,
            config,
            args.cfg_options or {},
            checkpoints.get(name),
            args.trust_checkpoint,
            int8.get(name),
        )
        for name, config in zip(names, args.config)
    ]


def named_values(
    option: str, given: Sequence[str], names: Sequence[str]
) -> dict[str, str]:
    """Split arguments of the form ``NAME=VALUE``.

    Raises:
        ConfigError: If one has another form, or a name that is not among ``names``.
    """
    pairs = {}
    for text in given:
        name, _, value = text.partition('=')
        if not value or name not in names:
            raise ConfigError(
                f'{option} takes NAME=VALUE with a name of {", ".join(names)}, but got '
                f'{text!r}'
            )
        pairs[name] = value
    return pairs


def read_miou(given: Sequence[str], names: Sequence[str]) -> tuple[dict[str, float], str]:
    """Read accuracies from ``NAME=VALUE``, a JSON file, or the paper.

    Returns:
        mIoU in percent by the name of the network, and the origin of the numbers, which
        is empty for one's own.

    Raises:
        ConfigError: If a file cannot be read, or a value is not a number.
    """
    if list(given) == ['paper']:
        found = {name: PAPER[name].miou for name in names if name in PAPER}
        return found, "the paper's on Cityscapes"
    pairs = {}
    for text in given:
        if text.endswith('.json') and '=' not in text:
            pairs.update(_read_json(text))
        else:
            pairs.update(named_values('--miou', [text], names))
    try:
        return {name: float(value) for name, value in pairs.items()}, ''
    except (TypeError, ValueError) as error:
        raise ConfigError(f'--miou takes numbers: {error}') from error


def _read_json(path: str) -> dict[str, str]:
    try:
        refuse_special_file(path)
        stored = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f'--miou {path} cannot be read as JSON: {error}') from error
    if not isinstance(stored, dict):
        raise ConfigError(f'--miou {path} must map names of configs to percents')
    return stored


def check_plots(paths: Sequence[str], miou: Mapping[str, float]) -> None:
    """Check that the plots can be drawn, before minutes are spent on measuring.

    Raises:
        ConfigError: If there is no mIoU.
        WriteError: If a suffix is not allowed.
    """
    for path in paths:
        check_format(path)
    if paths and not miou:
        raise ConfigError('--plot needs --miou NAME=VALUE, or --miou paper')
