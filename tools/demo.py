"""Draw street scenes, train a small network on them and compare both of its forms."""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

CONFIG = 'pspnet_repvgg_a0_fast_street'
DATA = 'data/street'  # where the config reads it


def main() -> None:
    parser = argparse.ArgumentParser(description=f'{__doc__} The data is in {DATA}.')
    parser.add_argument(
        '--work-dir',
        default='work_dirs/demo',
        help='for logs, curves, checkpoints and pictures; default %(default)s',
    )
    parser.add_argument(
        '--scenes',
        type=int,
        metavar='N',
        help='scenes to train on, and a quarter as many to evaluate; default 160',
    )
    parser.add_argument(
        '--iterations', type=int, metavar='N', help='of the training; default 260'
    )
    args = parser.parse_args()
    for name in ('scenes', 'iterations'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name} must be at least 1, but got {value}')

    drawing, training = [], []
    if args.scenes is not None:
        drawing = ['--train', str(args.scenes), '--val', str(max(args.scenes // 4, 1))]
    if args.iterations is not None:
        length = args.iterations
        training = ['--cfg-options', f'train_cfg.max_iters={length}']
        training += [f'param_scheduler.1.end={length + 1}']  # as in the config
        # A log without a line would leave nothing to draw.
        training += [f'default_hooks.logger.interval={min(length, 10)}']
    run('make_street_scenes.py', DATA, *drawing)
    run('train.py', CONFIG, '--work-dir', args.work_dir, *training)
    curves = os.path.join(args.work_dir, 'curves.png')
    run('plot_log.py', args.work_dir, '--out', curves)
    checkpoint = os.path.relpath(Path(args.work_dir, 'last_checkpoint').read_text())
    run('compare_forms.py', CONFIG, checkpoint, '--work-dir', args.work_dir)

    program, checkpoint = program_name(), shlex.quote(checkpoint)
    work_dir, images = shlex.quote(args.work_dir), f'{DATA}/leftImg8bit/test'
    print(f"""\
  curves                      {curves} (loss, learning rate and mIoU of the training)

Next, you could
  segment images, here those of the test split:
    {program} predict {images} -o {work_dir}/predicted -m {checkpoint} -c {CONFIG}
  paint predictions beside the ground truth:
    {program} test {CONFIG} {checkpoint} --show-dir {work_dir}/painted
  compare the training form with the fused form by the Winograd engine:
    {program} compare {CONFIG} {checkpoint} --engine winograd
  look at it in the browser (needs pip install 'mmseg_repvgg[web]'):
    {program} web {checkpoint} -c {CONFIG} --examples {images}""")


def run(tool: str, *arguments: str) -> None:
    """Run a tool in a process of its own; exit with its status if it fails."""
    command = [sys.executable, str(Path(__file__).with_name(tool)), *arguments]
    try:
        status = subprocess.run(command).returncode
    except KeyboardInterrupt:  # The tool was interrupted as well.
        status = 130
    if status:
        sys.exit(status)


def program_name() -> str:
    """Return what to type for the command of this environment."""
    script = Path(sys.executable).with_name('mmseg-repvgg')
    if not script.exists():
        return f'{shlex.quote(sys.executable)} -m repvgg_runtime.command'
    on_path = shutil.which(script.name) == str(script)
    return script.name if on_path else shlex.quote(os.path.relpath(script))


if __name__ == '__main__':
    main()
