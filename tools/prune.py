"""Remove the channels of a fused backbone that matter least; print what it costs."""

import argparse
from pathlib import Path

import startup  # noqa: F401, I001  (before torch and mmseg)

from benchmarks.pruning_table import pruning_table
from benchmarks.subjects import Source
from mmseg_repvgg import cli
from mmseg_repvgg.analysis.counting import count_network
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.testing import find_miou, prepare_testing
from mmseg_repvgg.export.pruned import prune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or name of a config')
    parser.add_argument('checkpoint', help='checkpoint file, in any form')
    parser.add_argument(
        '--share',
        type=float,
        default=0.3,
        help="share of the backbone's channels to remove; default 0.3",
    )
    parser.add_argument(
        '--images',
        type=int,
        default=64,
        help='number of images of the training set to look at; default 64',
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help="of the image to time; default: the config's window or else its crop",
    )
    parser.add_argument(
        '--out',
        help='folder for config and checkpoint, NAME_OF_CONFIG_pruned.py and .pth; '
        'default WORK_DIR/pruned',
    )
    parser.add_argument('--work-dir', help='default work_dirs/NAME_OF_CONFIG')
    cli.add_common_arguments(parser)
    args = parser.parse_args()

    cfg = load_config(args.config, args.cfg_options, work_dir=args.work_dir)
    folder = Path(args.out or f'{cfg.work_dir}/pruned')
    options, trust = args.cfg_options or {}, args.trust_checkpoint
    size = tuple(args.size) if args.size else None
    # Check the size before the pruning and the two evaluations, which take long.
    count_network(Path(args.config).stem, load_config(args.config, options), size)

    def evaluate(source: Source) -> float:
        test = load_config(source.given, source.options)
        test.work_dir, test.experiment_name = cfg.work_dir, f'prune_{source.name}'
        prepare_testing(test, str(source.checkpoint), trust=trust)
        return find_miou(build_runner(test, evaluating=True).test())

    before = Source('before', args.config, options, args.checkpoint, trust)
    done = prune(
        cfg,
        load_model(cfg, args.checkpoint, trust=trust),
        folder / f'{Path(args.config).stem}_pruned.py',
        share=args.share,
        images=args.images,
    )
    after = Source('after', str(done.config), {}, str(done.checkpoint))
    sources = {'before': before, 'after': after}
    miou = {name: evaluate(source) for name, source in sources.items()}
    print(pruning_table(done, sources, miou, size))


if __name__ == '__main__':
    cli.run(main)
