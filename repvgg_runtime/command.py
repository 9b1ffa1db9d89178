"""The command ``mmseg-repvgg``, which has a subcommand for each file in ``tools/``."""

from __future__ import annotations

import difflib
import importlib
import sys
from importlib import metadata
from typing import Final

from .configs import project_root

PROGRAM: Final = 'mmseg-repvgg'

SUBCOMMANDS: Final = {
    'demo': ('demo.py', 'draw street scenes, train on them and compare both forms'),
    'configs': ('configs.py', 'list the configs of this project, or copy some'),
    'train': ('train.py', 'train a segmentor'),
    'test': ('test.py', 'evaluate a checkpoint in the fused form'),
    'compare': ('compare_forms.py', 'compare both forms of a checkpoint on a test set'),
    'report': ('report.py', 'write an error report of a checkpoint as an HTML file'),
    'predict': ('repvgg_runtime.predict', 'segment images, folders and videos'),
    'web': ('repvgg_runtime.web', 'show a model on a web page'),
    'export': ('export.py', 'write a verified ONNX, OpenVINO or TorchScript file'),
    'openvino-extension': (
        'openvino_extension.py',
        'write the library that Winograd files of OpenVINO need elsewhere',
    ),
    'quantize': ('quantize.py', 'write an int8 file for OpenVINO'),
    'prune': ('prune.py', 'remove channels of a fused network'),
    'evaluate': ('evaluate_backend.py', 'evaluate an exported file on a test set'),
    'convert': (
        'convert_checkpoint.py',
        'convert a checkpoint between forms and layouts',
    ),
    'flops': ('get_flops.py', 'count parameters and operations'),
    'benchmark': ('benchmark.py', 'time networks against each other'),
    'plot': ('plot_log.py', 'draw loss, learning rate and mIoU of trainings'),
    'prepare-cityscapes': ('prepare_cityscapes.py', 'prepare Cityscapes for training'),
    'prepare-camvid': ('prepare_camvid.py', 'prepare CamVid for training'),
    'env': ('env.py', 'show versions, devices and engines, for a bug report'),
}
"""The tool or module that a subcommand runs, and a line about it."""


def main() -> None:
    """Run the subcommand that ``sys.argv`` names.

    Nothing here imports torch, so that ``predict`` starts fast and ``env`` works where
    torch does not.
    """
    name, *rest = sys.argv[1:] or ['--help']
    if name in ('-h', '--help'):
        sys.stdout.write(_usage())
    elif name == '--version':
        sys.stdout.write(f'{PROGRAM} {metadata.version("mmseg_repvgg")}\n')
    elif name in SUBCOMMANDS:
        sys.argv = [f'{PROGRAM} {name}', *rest]
        _run(SUBCOMMANDS[name][0])
    else:
        near = difflib.get_close_matches(name, SUBCOMMANDS, 1)
        hint = f'; did you mean {near[0]}?' if near else '.'
        sys.stderr.write(
            f'error: there is no command {name}{hint} {PROGRAM} --help lists them\n'
        )
        sys.exit(2)


def _usage() -> str:
    lines = [f'usage: {PROGRAM} COMMAND [ARGUMENTS]', '', 'commands:']
    lines += [f'  {name:<20}{about}' for name, (_, about) in SUBCOMMANDS.items()]
    lines += ['', f'{PROGRAM} COMMAND --help shows the arguments of a command.']
    return '\n'.join(lines) + '\n'


def _run(target: str) -> None:
    if not target.endswith('.py'):
        sys.exit(importlib.import_module(target).main())
    file = project_root() / 'tools' / target
    # Python does the same for a script: the tools import startup.py.
    sys.path.insert(0, str(file.parent))
    # runpy.run_path would replace sys.argv[0], which argparse shows as the name.
    code = compile(file.read_bytes(), file, 'exec')
    exec(code, {'__name__': '__main__', '__file__': str(file)})


if __name__ == '__main__':
    main()
