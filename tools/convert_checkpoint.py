"""Convert RepVGG weights between layouts and forms, and check the result's outputs."""

import argparse
import logging
import signal
import sys

import startup  # noqa: F401, I001  (before torch and mmseg)
from mmengine.logging import MMLogger

from mmseg_repvgg import cli
from mmseg_repvgg.checkpoints.key_names import LAYOUTS
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.models.archs import ARCHS
from mmseg_repvgg.models.convert import convert


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help='checkpoint of any layout and form')
    parser.add_argument('dst', help='file to write; NAME.safetensors has no pickle in it')
    parser.add_argument(
        '--to', choices=LAYOUTS, default='mmseg_repvgg', help='layout to write'
    )
    parser.add_argument(
        '--fuse',
        action=argparse.BooleanOptionalAction,
        help='write the fused form, or the training form; default: the form of SRC',
    )
    parser.add_argument(
        '--arch', choices=list(ARCHS), help='what SRC must be; default: its shapes tell'
    )
    parser.add_argument(
        '--eps',
        type=float,
        default=1e-5,
        help='what the batch norms add to the variance, if not 1e-5',
    )
    parser.add_argument(
        '--safetensors',
        action='store_true',
        help='write a file without pickle; DST must end in .safetensors',
    )
    parser.add_argument('--force', action='store_true', help='overwrite DST')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='read SRC even if that can run code that is in it',
    )
    args = parser.parse_args()
    if args.safetensors and not args.dst.endswith('.safetensors'):
        raise ConfigError(f'{args.dst} must end in .safetensors, with --safetensors')
    # What the backbones that are compared would say about their loading.
    MMLogger.get_instance('convert', log_level=logging.WARNING)
    # Ended this way, Python still cleans up behind itself.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))

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
