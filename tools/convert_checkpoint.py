"""Convert a RepVGG checkpoint to another layout or form, and check its outputs."""

import argparse
import logging

import startup  # noqa: F401, I001  (before torch and mmseg)
from mmengine.logging import MMLogger

from mmseg_repvgg import cli
from mmseg_repvgg.checkpoints.key_names import LAYOUTS
from mmseg_repvgg.models.archs import ARCHS
from mmseg_repvgg.models.convert import convert


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help='checkpoint in any layout and form')
    parser.add_argument('dst', help='file to write; *.safetensors has no pickle in it')
    parser.add_argument(
        '--to', choices=LAYOUTS, default='mmseg_repvgg', help='layout to write'
    )
    parser.add_argument(
        '--fuse',
        action=argparse.BooleanOptionalAction,
        help='write the fused or the training form; default: the form of SRC',
    )
    parser.add_argument(
        '--arch', choices=list(ARCHS), help='expected architecture; default: inferred'
    )
    parser.add_argument(
        '--eps',
        type=float,
        default=1e-5,
        help='value that the batch norms add to the variance, if not 1e-5',
    )
    parser.add_argument('--force', action='store_true', help='overwrite DST')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='unpickle anything in SRC, which can run code; only if you trust its origin',
    )
    args = parser.parse_args()
    # The backbones that are compared would log their loading.
    MMLogger.get_instance('convert', log_level=logging.WARNING)

    conversion = convert(
        args.src,
        args.dst,
        to=args.to,
        fuse=args.fuse,
        arch=args.arch,
        force=args.force,
        trust=args.trust_checkpoint,
        eps=args.eps,
    )
    print(conversion)


if __name__ == '__main__':
    cli.run(main)
