"""Export the fused model of a checkpoint and verify the file before it is saved."""

import argparse
import os
from pathlib import Path

import startup  # noqa: F401, I001  (before torch and mmseg)

from mmseg_repvgg import cli
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.export.exported import ENGINES, export, require_other_file
from mmseg_repvgg.export.formats import FORMATS
from mmseg_repvgg.export.metadata import OUTPUTS
from repvgg_runtime.backends import shape_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or name of a config')
    parser.add_argument('checkpoint', help='checkpoint file, in any form')
    parser.add_argument('--to', choices=list(FORMATS), required=True, help='format')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='size of the images; with --dynamic, one more size to compare at',
    )
    parser.add_argument('--batch', type=int, default=1, help='images at once; default 1')
    parser.add_argument(
        '--dynamic', action='store_true', help='leave batch, height and width open'
    )
    parser.add_argument(
        '--output', choices=OUTPUTS, default='labels', help='default labels'
    )
    parser.add_argument(
        '--normalize',
        action='store_true',
        help='take images as they are read, uint8, and normalize them in the graph',
    )
    parser.add_argument(
        '--opset', type=int, help="ONNX opset, at least 17; default: torch's choice"
    )
    parser.add_argument(
        '--engine',
        choices=ENGINES,
        default='torch',
        help='phases: no dilated convolutions; winograd: faster 3x3 convolutions in '
        'OpenVINO, by an extension of it',
    )
    cli.add_precision_argument(parser)
    parser.add_argument('--work-dir', help='default work_dirs/NAME_OF_CONFIG')
    parser.add_argument('--out', help='default WORK_DIR/NAME_OF_CHECKPOINT.SUFFIX')
    cli.add_common_arguments(parser)
    args = parser.parse_args()

    cfg = load_config(args.config, args.cfg_options, work_dir=args.work_dir)
    name = Path(args.checkpoint).with_suffix(FORMATS[args.to][0]).name
    path = Path(args.out or os.path.join(cfg.work_dir, name))
    require_other_file(path, args.checkpoint)
    done = export(
        cfg,
        load_model(cfg, args.checkpoint, trust=args.trust_checkpoint),
        path,
        args.to,
        size=tuple(args.size) if args.size else None,
        batch=args.batch,
        dynamic=args.dynamic,
        output=args.output,
        normalize=args.normalize,
        opset=args.opset,
        engine=args.engine,
        precision=args.precision or 'highest',
    )
    facts = done.metadata
    values = '0 to 255' if facts.normalize else 'normalized'
    takes = f'{shape_text(facts.shape)}, {facts.channels}, {values}'
    shapes = ', '.join('x'.join(map(str, shape)) for shape in done.shapes)
    print(f"""
  written               {done.path} ({done.megabytes:.1f} MB)
  input                 {facts.dtype} {takes}
  output                {facts.output}
  compared with torch   on {shapes}
  largest logit error   {done.agreement.logit_error:.1e} of the largest logit
  other labels          {done.agreement.label_error:.4%} of the pixels""")
    if (cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
        print('  The config slides a window over the image; the file takes whole images.')


if __name__ == '__main__':
    cli.run(main)
