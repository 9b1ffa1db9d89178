"""Quantize the fused model of a checkpoint to int8 for OpenVINO and print the cost."""

import argparse
import os
from pathlib import Path

import startup  # noqa: F401, I001  (before torch and mmseg)

from benchmarks.int8_table import int8_table
from mmseg_repvgg import cli
from mmseg_repvgg.analysis.curves import check_format, save_figure
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.export.exported import require_other_file
from mmseg_repvgg.export.int8_graph import METHODS
from mmseg_repvgg.export.metadata import OUTPUTS
from mmseg_repvgg.export.quantized import ENGINES, quantize
from mmseg_repvgg.export.ranges import draw_ranges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or name of a config')
    parser.add_argument('checkpoint', help='checkpoint file, in any form')
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('H', 'W'), help='size of the images'
    )
    parser.add_argument(
        '--dynamic', action='store_true', help='leave batch, height and width open'
    )
    parser.add_argument(
        '--images',
        type=int,
        default=300,
        help='number of images of the training set to calibrate on; default 300',
    )
    parser.add_argument(
        '--max-drop',
        type=float,
        metavar='POINTS',
        help='mIoU that may be lost; layers are kept in float32 until that is met',
    )
    parser.add_argument(
        '--output', choices=OUTPUTS, default='logits', help='default logits'
    )
    parser.add_argument(
        '--normalize',
        action='store_true',
        help='take images as they are read, uint8, and normalize them in the graph',
    )
    parser.add_argument(
        '--engine',
        choices=ENGINES,
        default='torch',
        help='phases: no dilated convolutions',
    )
    parser.add_argument(
        '--method',
        choices=METHODS,
        default=METHODS[0],
        help='rounding of weights: so that errors compensate each other (gptq, default), '
        'or to the nearest (nncf)',
    )
    parser.add_argument(
        '--plot',
        metavar='FILE',
        help='draw the ranges of weights and inputs by layer (.png, .svg, .pdf)',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='seed that chooses the images; default 0'
    )
    parser.add_argument('--work-dir', help='default work_dirs/NAME_OF_CONFIG')
    parser.add_argument('--out', help='default WORK_DIR/NAME_OF_CHECKPOINT_int8.xml')
    cli.add_common_arguments(parser)
    args = parser.parse_args()

    cfg = load_config(args.config, args.cfg_options, work_dir=args.work_dir)
    name = f'{Path(args.checkpoint).stem}_int8.xml'
    path = Path(args.out or os.path.join(cfg.work_dir, name))
    require_other_file(path, args.checkpoint)
    if args.plot:
        check_format(args.plot)
    done = quantize(
        cfg,
        load_model(cfg, args.checkpoint, trust=args.trust_checkpoint),
        path,
        size=tuple(args.size) if args.size else None,
        dynamic=args.dynamic,
        output=args.output,
        normalize=args.normalize,
        engine=args.engine,
        method=args.method,
        images=args.images,
        max_drop=args.max_drop,
        seed=args.seed,
    )
    print(int8_table(done))
    if args.plot:
        save_figure(draw_ranges(done.ranges), args.plot)


if __name__ == '__main__':
    cli.run(main)
