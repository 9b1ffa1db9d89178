"""Train a segmentor."""

import argparse
import os
import shlex
import sys
from pathlib import Path

import startup  # noqa: F401, I001  (before torch and mmseg)
from mmengine.dist import is_main_process

from mmseg_repvgg import cli
from mmseg_repvgg.datasets.folder_checks import check_folders
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.own_data import fit_crop, folder_datasets, use_folder
from mmseg_repvgg.engine.processes import is_first_process
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.training import prepare_training, recipe_warnings
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.inference.trained import save_best
from repvgg_runtime.configs import config_files
from repvgg_runtime.extras import require

OWN_DATA = 'pspnet_repvgg_a0_fast_folder'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config',
        nargs='?',
        help=f'config file, or name of a config; with --data by default {OWN_DATA}',
    )
    parser.add_argument(
        '--data', metavar='FOLDER', help='train on your own images and masks'
    )
    parser.add_argument(
        '--classes', metavar='FILE', help='their classes, one on each line'
    )
    parser.add_argument(
        '--work-dir', help='for logs and checkpoints; default work_dirs/NAME_OF_CONFIG'
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='continue from the latest checkpoint in the work dir',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='train in a work dir that holds the training of another config',
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
    if bool(args.data) != bool(args.classes):
        parser.error('--data FOLDER needs --classes FILE, and the other way round')
    if args.data:
        args.config = args.config or OWN_DATA
        args.work_dir = args.work_dir or f'work_dirs/{Path(args.data).resolve().name}'
    elif args.config is None:
        parser.error('give a config, or --data and --classes')

    cfg = load_config(
        args.config,
        args.cfg_options,
        work_dir=args.work_dir,
        launcher=args.launcher,
        local_rank=args.local_rank,
    )
    if args.data:
        use_folder(cfg, args.data, args.classes)
        # A copy of the config may have another pipeline, which fit_crop does not fit.
        if os.path.samefile(cfg.filename, config_files()[OWN_DATA]):
            height, width = fit_crop(cfg)
            if is_first_process(cfg):
                print(f'trains on crops of {height}x{width}')
    resume_from = prepare_training(
        cfg,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        global_batch=args.global_batch,
        resume=args.resume,
        overwrite=args.overwrite,
        trust=args.trust_checkpoint,
    )
    folders = folder_datasets(cfg)
    if folders:
        require('safetensors', 'safetensors')  # Otherwise it would fail at the end.
        if cfg.default_hooks.get('checkpoint', {}) is None:
            raise ConfigError('the best model is saved from default_hooks.checkpoint')
    if folders and is_first_process(cfg):
        check_folders(folders, print)
    runner = build_runner(cfg, verbose=args.verbose, resume_from=resume_from)
    for warning in recipe_warnings(cfg, resumed=resume_from is not None):
        runner.logger.warning(warning)
    runner.train()
    if folders and is_main_process():
        command = f'{os.path.basename(sys.argv[0])} {shlex.join(sys.argv[1:])}'
        _, training = folders[0]
        data = training.get('data_root') or training.data_prefix.img_path
        folder, best = save_best(runner, data=data, command=command)
        config = Path(cfg.work_dir, Path(cfg.filename).name)
        print(f"""
The best model is in {folder}. Next, you could
  segment images:
    mmseg-repvgg predict IMAGES -o results -m {shlex.quote(str(folder))}
  use it in Python:
    Segmenter.from_pretrained({str(folder)!r})
  see where it errs:
    mmseg-repvgg report {shlex.join([str(config), best])}""")


if __name__ == '__main__':
    cli.run(main)
