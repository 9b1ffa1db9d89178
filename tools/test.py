"""Test a checkpoint in the fused form."""

import argparse

import startup  # noqa: F401, I001  (before torch and mmseg)

from mmseg_repvgg import cli
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.leaderboard import size_warnings
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.testing import prepare_testing
from mmseg_repvgg.winograd import ENGINES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or name of a config')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--work-dir', help='for logs and metrics; default work_dirs/NAME_OF_CONFIG'
    )
    parser.add_argument(
        '--out', help='folder for the predicted label maps: PNG files of training ids'
    )
    parser.add_argument(
        '--format-only',
        action='store_true',
        help='write label ids to --out, as the Cityscapes server takes them, instead of '
        'evaluating',
    )
    parser.add_argument(
        '--split',
        choices=['val', 'test'],
        help='with --format-only, which images; default test',
    )
    parser.add_argument('--show-dir', help='folder for images painted with predictions')
    parser.add_argument(
        '--tta', action='store_true', help='average over scales and flips'
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        '--no-deploy', action='store_true', help='evaluate the training form'
    )
    form.add_argument(
        '--engine',
        choices=list(ENGINES),
        help='what computes the fused model: torch (default), phases, which has no '
        'dilated convs, winograd, which is fast on a CPU, or auto, which tries each conv',
    )
    cli.add_precision_argument(parser)
    cli.add_common_arguments(parser, launcher=True, verbose=True)
    args = parser.parse_args()

    cfg = load_config(
        args.config,
        args.cfg_options,
        work_dir=args.work_dir,
        launcher=args.launcher,
        local_rank=args.local_rank,
    )
    prepare_testing(
        cfg,
        args.checkpoint,
        out=args.out,
        format_only=args.format_only,
        split=args.split,
        show_dir=args.show_dir,
        tta=args.tta,
        fused=not args.no_deploy,
        engine=args.engine,
        precision=args.precision,
        trust=args.trust_checkpoint,
    )
    runner = build_runner(cfg, verbose=args.verbose, evaluating=True)
    for warning in size_warnings(cfg) if args.format_only else []:
        runner.logger.warning(warning)
    runner.test()


if __name__ == '__main__':
    cli.run(main)
