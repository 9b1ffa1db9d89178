"""Evaluate an exported file on a config's test set, as test.py evaluates a checkpoint."""

import argparse

import startup  # noqa: F401, I001  (before torch and mmseg)

from mmseg_repvgg import cli
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.config_checks import TEST_KEYS, check_keys
from mmseg_repvgg.engine.processes import check_launcher
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.export.backend_segmentor import use_exported_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or name of a config')
    parser.add_argument('file', help='exported file: *.onnx, *.xml or *.pt')
    parser.add_argument(
        '--work-dir', help='for logs and metrics; default work_dirs/NAME_OF_CONFIG'
    )
    parser.add_argument(
        '--device', default='cpu', help='device to run the file on; default cpu'
    )
    cli.add_common_arguments(parser, trust=False, verbose=True)
    args = parser.parse_args()

    cfg = load_config(args.config, args.cfg_options, work_dir=args.work_dir)
    check_launcher(cfg)
    check_keys(cfg, TEST_KEYS, 'a test loop')
    cfg.tensorboard = False  # It is for trainings.
    use_exported_file(cfg, args.file, args.device)
    build_runner(cfg, verbose=args.verbose, evaluating=True).test()


if __name__ == '__main__':
    cli.run(main)
