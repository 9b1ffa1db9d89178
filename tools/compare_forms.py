"""Compare the training form and the fused form of a checkpoint on a test set."""

import argparse
import logging
from pathlib import Path

import startup  # noqa: F401  (before torch and mmseg)

# isort: split
import mmcv

from mmseg_repvgg import cli
from mmseg_repvgg.analysis.forms import compare_forms
from mmseg_repvgg.checkpoints.loading import naming_checkpoint
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.testing import find_miou, ignored_label, prepare_testing
from mmseg_repvgg.hooks.sample_hook import paint_sample
from mmseg_repvgg.winograd import ENGINES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or name of a config')
    parser.add_argument('checkpoint', help='checkpoint file, in the training form')
    parser.add_argument(
        '--work-dir', help='for logs and pictures; default work_dirs/NAME_OF_CONFIG'
    )
    parser.add_argument(
        '--pictures',
        type=cli.positive_int,
        default=8,
        help='number of pictures to write',
    )
    parser.add_argument(
        '--engine',
        choices=list(ENGINES),
        default='torch',
        help='engine of the fused form; default torch',
    )
    cli.add_precision_argument(parser)
    cli.add_common_arguments(parser)
    args = parser.parse_args()

    cfg = load_config(args.config, args.cfg_options, work_dir=args.work_dir)
    prepare_testing(cfg, args.checkpoint, fused=False, trust=args.trust_checkpoint)
    cfg.log_level = logging.WARNING
    runner = build_runner(cfg, evaluating=True)
    with naming_checkpoint(args.checkpoint):
        runner.load_or_resume()
    dataloader = runner.test_dataloader
    palette = dataloader.dataset.metainfo.get('palette', [])
    folder = Path(cfg.work_dir) / 'pictures'

    def save(index: int, sample, inputs) -> None:
        if index >= args.pictures:
            return
        name = f'{index:03}_{Path(sample.img_path).stem}'
        try:
            picture = paint_sample(sample, inputs, palette)
            mmcv.imwrite(picture, str(folder / f'{name}.png'))
        except Exception as error:  # A picture must not end a comparison.
            args.pictures = 0
            runner.logger.warning(f'no more pictures after {sample.img_path}: {error!r}')

    result = compare_forms(
        runner.model,
        dataloader,
        save,
        engine=args.engine,
        precision=args.precision or 'highest',
        ignore_index=ignored_label(cfg),
    )
    difference = result.difference
    fused_form = 'fused form' if args.engine == 'torch' else f'fused, {args.engine}'
    ratio = result.trained_seconds / result.fused_seconds
    trained, fused = find_miou(result.trained), find_miou(result.fused)
    print(f"""
                               training form{fused_form:>17}
  mIoU (%)                    {trained:14.2f}{fused:17.2f}
  time per image (ms, median) {1e3 * result.trained_seconds:14.1f}\
{1e3 * result.fused_seconds:17.1f}   fused is {ratio:.2f}x as fast
  largest logit difference    {difference.logit_difference:14.1e}   of the largest logit
  pixels of another label     {difference.label_disagreement:14.4%}
  pictures                    {folder}/ (input | ground truth | prediction)""")


if __name__ == '__main__':
    cli.run(main)
