"""Write an error report of a checkpoint as one HTML file."""

import argparse
import logging
from datetime import date
from pathlib import Path

import startup  # noqa: F401  (before torch and mmseg)

# isort: split
from mmseg_repvgg import __version__, cli
from mmseg_repvgg.checkpoints.loading import naming_checkpoint
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.testing import ignored_label, prepare_testing
from mmseg_repvgg.report.writing import choose_split, write_report
from mmseg_repvgg.winograd import ENGINES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or name of a config')
    parser.add_argument('checkpoint', help='checkpoint file, in either form')
    parser.add_argument(
        '-o', '--out', default='report.html', help='the file; default %(default)s'
    )
    parser.add_argument(
        '--against',
        nargs='+',
        default=[],
        metavar='REPORT',
        help='reports of other runs on the same images, to show changes',
    )
    parser.add_argument(
        '--split', choices=['test', 'val'], default='test', help='default %(default)s'
    )
    parser.add_argument(
        '--images',
        type=int,
        default=24,
        metavar='N',
        help='number of the worst images to show; default %(default)s',
    )
    parser.add_argument(
        '--engine',
        choices=list(ENGINES),
        default='torch',
        help='engine of the fused form; default torch',
    )
    cli.add_precision_argument(parser)
    parser.add_argument('--work-dir', help='for logs; default work_dirs/NAME_OF_CONFIG')
    cli.add_common_arguments(parser)
    args = parser.parse_args()

    cfg = load_config(args.config, args.cfg_options, work_dir=args.work_dir)
    choose_split(cfg, args.split)
    prepare_testing(cfg, args.checkpoint, trust=args.trust_checkpoint)
    cfg.log_level = logging.WARNING
    runner = build_runner(cfg, evaluating=True)
    with naming_checkpoint(args.checkpoint):
        runner.load_or_resume()

    run = dict(
        config=Path(args.config).stem,
        checkpoint=Path(args.checkpoint).name,
        split='val' if cfg.test_dataloader == cfg.get('val_dataloader') else args.split,
        version=__version__,
        date=date.today().isoformat(),
    )
    numbers = write_report(
        runner.model,
        runner.test_dataloader,
        args.out,
        run,
        pictures=args.images,
        against=args.against,
        ignore_index=ignored_label(cfg),
        engine=args.engine,
        precision=args.precision or 'highest',
    )
    metrics = numbers['metrics']
    worst = min(
        (value, name)
        for value, name in zip(numbers['iou'], numbers['classes'])
        if value is not None
    )
    print(f"""
  mIoU (%)           {100 * metrics['miou']:8.2f}
  pixel accuracy (%) {100 * metrics['accuracy']:8.2f}
  ECE (%)            {100 * metrics['ece']:8.2f}
  worst class        {worst[1]}, IoU {100 * worst[0]:.2f} %
  report             {args.out}""")


if __name__ == '__main__':
    cli.run(main)
