"""Time networks against each other on one input, in several forms: docs/benchmark.md."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import startup  # noqa: F401, I001  (before torch and mmseg)
import torch

from benchmarks.benchmark import PROTOCOLS, benchmark
from benchmarks.paper import PAPER, R50
from benchmarks.report import Report
from benchmarks.runtimes import FORMS
from benchmarks.subjects import Source
from benchmarks.table import table
from benchmarks.tradeoff import draw_tradeoff
from mmseg_repvgg import cli
from mmseg_repvgg.analysis.curves import FORMATS, save_figure
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.special_files import refuse_special_file

CONFIGS = Path(__file__).parents[1] / 'configs'
QUICK_FORMS = ('training', 'fused', 'channels-last')
PAPER_FORMS = tuple(form for form in FORMS if FORMS[form].on_gpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
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
        help=f'of {", ".join(FORMS)}; default {" ".join(QUICK_FORMS)}, with --protocol '
        f'paper {" ".join(PAPER_FORMS)}, as far as the device has them',
    )
    parser.add_argument('--protocol', choices=list(PROTOCOLS), default='cpu')
    parser.add_argument('--batch', type=int, help='images at once')
    parser.add_argument('--size', nargs=2, type=int, metavar=('H', 'W'))
    parser.add_argument('--warmup', type=int, help='rounds that do not count')
    parser.add_argument('--rounds', type=int, help='rounds that are timed')
    parser.add_argument(
        '--budget',
        type=float,
        metavar='SECONDS',
        help='for all of it: no round begins after that',
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
        help='of tools/quantize.py; default: calibrated on random numbers',
    )
    parser.add_argument(
        '--baseline',
        metavar='NAME[:FORM]',
        help='to compare with; default the first config, in its fastest float32 form',
    )
    parser.add_argument(
        '--memory', action='store_true', help='measure peak memory on a CPU too'
    )
    parser.add_argument(
        '--from',
        dest='measured',
        metavar='JSON',
        help='of an earlier --out: measure nothing, but show it, such as with another '
        '--baseline, or --plot it',
    )
    parser.add_argument('--out', help='JSON to write, anew after each round')
    parser.add_argument(
        '--plot',
        nargs='+',
        default=[],
        metavar='FILE',
        help=f'speed against mIoU, as {", ".join(FORMATS)}',
    )
    parser.add_argument(
        '--miou',
        nargs='+',
        default=[],
        metavar='NAME=VALUE',
        help="for --plot: percents, a JSON file of them, or 'paper' for the paper's own",
    )
    cli.add_common_arguments(parser)
    args = parser.parse_args()

    paper = args.protocol == 'paper'
    if paper and not args.config and not args.measured:
        args.config = [str(CONFIGS / f'{name}.py') for name in PAPER]
        args.baseline = args.baseline or R50
    args.device = args.device or ('cuda' if paper else 'cpu')
    if args.forms is None:
        args.forms = [
            form
            for form in (PAPER_FORMS if paper else QUICK_FORMS)
            if args.device == 'cuda' or FORMS[form].on_cpu
        ]
    torch.backends.cudnn.benchmark = args.cudnn_benchmark
    if bool(args.config) == bool(args.measured):
        raise ConfigError('give the configs to measure, or --from an earlier --out')
    earlier = Report.load(args.measured) if args.measured else None
    names = earlier.names if earlier else [Path(config).stem for config in args.config]
    miou, said_by = _miou(args.miou, names)
    _check_plot(args.plot, miou)
    if earlier is None:
        report = _measure(args, names)
    else:
        report = earlier.compared_with(args.baseline or earlier.baseline)
    print(f'\n{table(report)}')
    for path in args.plot:
        save_figure(draw_tradeoff(report, miou, said_by), path)
    if earlier is not None and args.out:
        report.save(args.out)
    if written := [path for path in (args.out, *args.plot) if path]:
        print(f'\nwritten: {", ".join(written)}')


def _measure(args: argparse.Namespace, names: list[str]) -> Report:
    if len(set(args.forms)) < len(args.forms):
        raise ConfigError(f'--forms {" ".join(args.forms)} names one twice')
    # Written so that NaN fails as well.
    if args.budget is not None and not args.budget >= 0:
        raise ConfigError(f'--budget must be at least 0 seconds, but got {args.budget}')
    checkpoints = _by_name('--checkpoint', args.checkpoint, names)
    int8 = _by_name('--int8', args.int8, names)
    sources = [
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
    given = {
        key: value
        for key in ('batch', 'warmup', 'rounds', 'budget')
        if (value := getattr(args, key)) is not None
    }
    protocol = replace(PROTOCOLS[args.protocol], **given)
    if args.size:
        protocol = replace(protocol, size=tuple(args.size))
    return benchmark(
        sources,
        args.forms,
        protocol,
        threads=torch.get_num_threads() if args.threads is None else args.threads,
        device=args.device,
        backbone_only=args.backbone_only,
        baseline=args.baseline,
        memory=args.memory,
        on_progress=(lambda report: report.save(args.out)) if args.out else None,
    )


def _by_name(option: str, given: list[str], names: list[str]) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition('=')
        if not equals or not value or name not in names:
            raise ConfigError(
                f'{option} takes NAME=VALUE with a name of {", ".join(names)}, but got '
                f'{text!r}'
            )
        pairs[name] = value
    return pairs


def _miou(given: list[str], names: list[str]) -> tuple[dict[str, float], str]:
    if given == ['paper']:
        found = {name: PAPER[name].miou for name in names if name in PAPER}
        return found, "the paper's on Cityscapes"
    pairs = {}
    for text in given:
        if text.endswith('.json') and '=' not in text:
            pairs.update(_read_miou(text))
        else:
            pairs.update(_by_name('--miou', [text], names))
    try:
        return {name: float(value) for name, value in pairs.items()}, ''
    except (TypeError, ValueError) as error:
        raise ConfigError(f'--miou takes numbers: {error}') from error


def _read_miou(path: str) -> dict[str, float]:
    try:
        refuse_special_file(path)
        stored = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f'--miou {path} cannot be read as JSON: {error}') from error
    if not isinstance(stored, dict):
        raise ConfigError(f'--miou {path} must map names of configs to percents')
    return stored


def _check_plot(paths: list[str], miou: dict[str, float]) -> None:
    """Before minutes are spent on measuring."""
    for path in paths:
        if Path(path).suffix[1:].lower() not in FORMATS:
            raise ConfigError(
                f'--plot {path}: the name has to end in one of '
                f'{", ".join(f".{kind}" for kind in FORMATS)}'
            )
    if paths and not miou:
        raise ConfigError(
            '--plot needs --miou NAME=VALUE of the configs, or --miou paper'
        )


if __name__ == '__main__':
    cli.run(main)
