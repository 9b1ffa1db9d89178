"""Train a segmentor; every validation runs on the fused model."""

import argparse

import startup  # noqa: F401, I001  (before torch and mmseg)
from mmengine.dist import get_world_size

from mmseg_repvgg import cli
from mmseg_repvgg.checkpoints.loading import naming_checkpoint
from mmseg_repvgg.engine import launch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir', help='for logs and checkpoints; default work_dirs/NAME_OF_CONFIG'
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on from the latest checkpoint in the work dir',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='auto',
        choices=['auto', 'float16', 'bfloat16'],
        help='mixed precision; auto, or nothing: where this machine gains by it',
    )
    parser.add_argument(
        '--global-batch',
        type=int,
        metavar='N',
        help='images per step of the optimizer over all processes, e.g. the 16 of the '
        'recipe: with fewer GPUs than it names, gradients are accumulated',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the global batch size over that of the recipe',
    )
    cli.add_common_arguments(parser, launcher=True, verbose=True)
    args = parser.parse_args()

    cfg = launch.load_config(args)
    launch.prepare_training(
        cfg,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        global_batch=args.global_batch,
        resume=args.resume,
        trust=args.trust_checkpoint,
    )
    runner = launch.build_runner(cfg, verbose=args.verbose)
    for warning in launch.recipe_warnings(cfg, get_world_size()):
        runner.logger.warning(warning)
    with naming_checkpoint(cfg.load_from):
        runner.train()


if __name__ == '__main__':
    cli.run(main)
