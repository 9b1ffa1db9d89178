"""Show versions, processor, devices and working engines, as a bug report needs them."""

import argparse
import contextlib
import io
import os
import platform
import re
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from repvgg_runtime.cores import usable_cores

# A tuple lists distributions of the same modules, of which one is needed.
PACKAGES = (
    *('mmseg_repvgg', 'torch', ('onedl-mmsegmentation', 'mmsegmentation')),
    *(('onedl-mmengine', 'mmengine'), ('onedl-mmcv', 'mmcv', 'mmcv-lite')),
    *('numpy', ('opencv-python', 'opencv-python-headless'), 'pillow', 'safetensors'),
    *('onnx', 'onnxruntime', 'onnxscript', 'openvino', 'nncf'),
    *('cityscapesscripts', 'tensorboard'),
)
# The instruction sets that decide which kernels run, as Linux names them.
INSTRUCTIONS = re.compile(
    r'avx2|fma|avx512f|avx\w*_(vnni|bf16|fp16)|amx_\w+|asimd|bf16|sve'
)
SETTINGS = re.compile(r'(OMP|GOMP|KMP|MKL|ONEDNN|ATEN|WINOGRAD|CUDA)_\w+|CXX')

Rows = Iterator[tuple[str, object]]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.filterwarnings('ignore')
    for part in (versions, processor, settings, devices, engines):
        print(f'{part.__name__}:')
        try:
            for name, value in part():
                print(f'  {name:<22}{value}')
        except Exception as error:  # A report is needed most where something fails.
            print(f'  {type(error).__name__}: {error}')


def versions() -> Rows:
    yield 'system', platform.platform()
    yield 'python', platform.python_version()
    for names in PACKAGES:
        names = (names,) if isinstance(names, str) else names
        found = {name: version for name in names if (version := installed(name))}
        yield from (found or {names[0]: 'not installed'}).items()


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> Rows:
    facts = {}
    if os.path.exists('/proc/cpuinfo'):
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        facts = dict(
            re.split(r'\s*:\s*', line, maxsplit=1) for line in lines if ':' in line
        )
    flags = (facts.get('flags') or facts.get('Features') or '').split()
    yield 'name', facts.get('model name') or platform.machine()
    yield 'instruction sets', ' '.join(filter(INSTRUCTIONS.fullmatch, flags)) or 'unknown'

    import torch

    version = re.search(r'MKL-DNN (v\S+)', torch.__config__.show())
    yield 'torch computes with', torch.backends.cpu.get_cpu_capability()
    yield 'oneDNN', version[1] if version else torch.backends.mkldnn.is_available()
    yield 'threads', f'{torch.get_num_threads()} on {usable_cores()} cores'


def settings() -> Rows:
    yield from sorted(pair for pair in os.environ.items() if SETTINGS.fullmatch(pair[0]))


def devices() -> Rows:
    import torch

    yield 'CUDA of torch', torch.version.cuda or 'not built in'
    yield 'cuDNN', torch.backends.cudnn.version() or 'none'
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        capability = f'compute capability {facts.major}.{facts.minor}'
        memory = f'{facts.total_memory / 2**30:.1f} GiB'
        yield f'cuda:{index}', f'{facts.name}, {capability}, {memory}'


def engines() -> Rows:
    for engine in (pytorch, winograd, onnxruntime, openvino):
        try:
            yield engine.__name__, engine()
        except ModuleNotFoundError as error:
            yield engine.__name__, f'needs {error.name}, which is not installed'
        except Exception as error:
            yield engine.__name__, f'{type(error).__name__}: {error}'


def pytorch() -> str:
    with contextlib.redirect_stderr(io.StringIO()):  # mmseg says what it lacks.
        import mmseg_repvgg  # noqa: F401

    return 'works'


def winograd() -> str:
    from repvgg_runtime.kernels.build import library

    return 'works' if library() else 'its kernel does not compile, see the warning'


def onnxruntime() -> str:
    from onnxruntime import get_available_providers

    return ', '.join(get_available_providers())


def openvino() -> str:
    from openvino import Core

    core = Core()
    names = []
    for device in core.available_devices:
        full_name = core.get_property(device, 'FULL_DEVICE_NAME')
        names.append(f'{device} ({full_name.strip()})')
    return ', '.join(names)


if __name__ == '__main__':
    main()
