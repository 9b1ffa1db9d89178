"""Bring the fused model of a checkpoint to int8 for OpenVINO, and say what that costs."""

import argparse
import os
from functools import partial
from pathlib import Path

import startup  # noqa: F401, I001  (before torch and mmseg)
import torch

from benchmarks.machine import missing_for_int8
from benchmarks.timing import time_alternating
from mmseg_repvgg import cli
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.export.metadata import OUTPUTS
from mmseg_repvgg.export.quantizing import quantize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file, in any form')
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('H', 'W'), help='of the images'
    )
    parser.add_argument(
        '--dynamic', action='store_true', help='leave batch, height and width open'
    )
    parser.add_argument(
        '--images',
        type=int,
        default=300,
        help='of the training set, to calibrate on; default 300',
    )
    parser.add_argument(
        '--max-drop',
        type=float,
        metavar='POINTS',
        help='of mIoU; layers are kept in float32 until no more than that is lost',
    )
    parser.add_argument(
        '--output', choices=OUTPUTS, default='logits', help='default logits'
    )
    parser.add_argument(
        '--normalize',
        action='store_true',
        help='take images as they are read, uint8, and normalise them in the graph',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='of the choice of images; default 0'
    )
    parser.add_argument('--work-dir', help='default work_dirs/NAME_OF_CONFIG')
    parser.add_argument('--out', help='default WORK_DIR/NAME_OF_CHECKPOINT_int8.xml')
    cli.add_common_arguments(parser)
    args = parser.parse_args()

    cfg = load_config(args)
    name = f'{Path(args.checkpoint).stem}_int8.xml'
    model = load_model(cfg, args.checkpoint, trust=args.trust_checkpoint)
    done = quantize(
        cfg,
        model,
        args.out or os.path.join(cfg.work_dir, name),
        size=tuple(args.size) if args.size else None,
        dynamic=args.dynamic,
        output=args.output,
        normalize=args.normalize,
        images=args.images,
        max_drop=args.max_drop,
        seed=args.seed,
    )
    times = time_alternating(
        {name: partial(run, done.sample) for name, run in done.contenders.items()},
        rounds=31,
    )
    slow, plain, fast = (times.spread(name).median * 1e3 for name in done.contenders)
    torch_name, plain_name, fast_name = done.contenders
    facts = done.metadata.quantized
    layers, kept = facts['layers'], facts['kept']
    shape = 'x'.join(map(str, done.sample.shape))
    print(f"""
  written               {done.path}
  calibrated on         {facts['images']} images of the training set, seed {facts['seed']}
  in int8               {len(layers)} of {len(layers) + len(kept)} convolutions, \
{done.running} of them run so on this machine

                          torch float32   OpenVINO float32   OpenVINO int8
  mIoU (%)                            -   {done.float_miou:16.2f}   {done.miou:13.2f}   \
on the {done.scored} images of validation
  size (MB)                           -   {done.float_megabytes:16.1f}   \
{done.megabytes:13.1f}
  time (ms, median)       {slow:13.1f}   {plain:16.1f}   {fast:13.1f}   \
an image of {shape}, threads: {torch.get_num_threads()}
  times as fast           {1:13.2f}   \
{times.speedup(plain_name, torch_name).median:16.2f}   \
{times.speedup(fast_name, torch_name).median:13.2f}""")
    if args.max_drop is not None:
        print(f"""
  mIoU with every layer in int8   {done.whole_miou:.2f}
  kept in float32                 {', '.join(kept) or 'none'}""")
    if lack := missing_for_int8():
        print(f'\n  {lack}')


if __name__ == '__main__':
    cli.run(main)
