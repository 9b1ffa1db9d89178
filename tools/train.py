"""Train a segmentor."""

import argparse

import startup  # noqa: F401, I001  (before torch and mmseg)

from mmseg_repvgg import cli
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.training import prepare_training, recipe_warnings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or name of a config')
    parser.add_argument(
        '--work-dir', help='for logs and checkpoints; default work_dirs/NAME_OF_CONFIG'
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='continue from the latest checkpoint in the work dir',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='auto',
        choices=['auto', 'float16', 'bfloat16'],
        help='mixed precision; auto, or no value: where this machine gains by it',
    )
    parser.add_argument(
        '--global-batch',
        type=int,
        metavar='N',
        help='images per optimizer step over all processes, such as the 16 of the '
        'recipe; with few GPUs, gradients are accumulated',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the global batch size over that of the recipe',
    )
    cli.add_common_arguments(parser, launcher=True, verbose=True)
    args = parser.parse_args()

    cfg = load_config(args)
    prepare_training(
        cfg,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        global_batch=args.global_batch,
        resume=args.resume,
        trust=args.trust_checkpoint,
    )
    runner = build_runner(cfg, verbose=args.verbose)
    for warning in recipe_warnings(cfg):
        runner.logger.warning(warning)
    runner.train()


if __name__ == '__main__':
    cli.run(main)
