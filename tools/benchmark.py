"""Time networks against each other on one input, in several forms: docs/benchmark.md."""

import argparse
from pathlib import Path

import startup  # noqa: F401, I001  (before torch and mmseg)
import torch

from benchmarks import options
from benchmarks.benchmark import benchmark
from benchmarks.paper import PAPER, R50
from benchmarks.report import Report
from benchmarks.table import table
from benchmarks.tradeoff import draw_tradeoff
from mmseg_repvgg import cli
from mmseg_repvgg.analysis.curves import save_figure
from mmseg_repvgg.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / 'configs'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    options.add_arguments(parser)
    cli.add_common_arguments(parser)
    args = parser.parse_args()

    torch.backends.cudnn.benchmark = args.cudnn_benchmark
    if args.protocol == 'paper' and not args.config and not args.measured:
        args.config = [str(CONFIGS / f'{name}.py') for name in PAPER]
        args.baseline = args.baseline or R50
    if bool(args.config) == bool(args.measured):
        raise ConfigError('give the configs to measure, or --from an earlier --out')
    earlier = Report.load(args.measured) if args.measured else None
    names = earlier.names if earlier else [Path(config).stem for config in args.config]
    miou, origin = options.read_miou(args.miou, names)
    options.check_plots(args.plot, miou)
    if earlier is None:
        report = benchmark(
            options.sources(args, names),
            options.forms(args),
            options.protocol(args),
            threads=torch.get_num_threads() if args.threads is None else args.threads,
            device=options.device(args),
            backbone_only=args.backbone_only,
            baseline=args.baseline,
            memory=args.memory,
            on_progress=(lambda report: report.save(args.out)) if args.out else None,
        )
    else:
        report = earlier.compared_with(args.baseline) if args.baseline else earlier
        if args.out:
            report.save(args.out)
    print(f'\n{table(report)}')
    for path in args.plot:
        save_figure(draw_tradeoff(report, miou, origin), path)
    if written := [path for path in (args.out, *args.plot) if path]:
        print(f'\nwritten: {", ".join(written)}')


if __name__ == '__main__':
    cli.run(main)
