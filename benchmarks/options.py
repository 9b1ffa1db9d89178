"""Turn the arguments of ``tools/benchmark.py`` into those of a benchmark."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.benchmark import PROTOCOLS
from benchmarks.paper import PAPER
from benchmarks.report import Protocol
from benchmarks.runtimes import FORMS
from benchmarks.subjects import Source
from mmseg_repvgg.analysis.curves import FORMATS
from mmseg_repvgg.errors import ConfigError
from repvgg_runtime.special_files import refuse_special_file

QUICK_FORMS = ('training', 'fused', 'channels-last')


def device(args: Namespace) -> str:
    """Return the device to measure on."""
    return args.device or ('cuda' if args.protocol == 'paper' else 'cpu')


def forms(args: Namespace) -> list[str]:
    """Return the forms to measure.

    Raises:
        ConfigError: If one is given twice.
    """
    if args.forms is None:
        paper = [name for name, form in FORMS.items() if form.on_gpu]
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
        ConfigError: If a suffix is not allowed, or there is no mIoU.
    """
    for path in paths:
        if Path(path).suffix[1:].lower() not in FORMATS:
            raise ConfigError(
                f'--plot {path}: the suffix must be one of '
                f'{", ".join(f".{kind}" for kind in FORMATS)}'
            )
    if paths and not miou:
        raise ConfigError('--plot needs --miou NAME=VALUE, or --miou paper')
