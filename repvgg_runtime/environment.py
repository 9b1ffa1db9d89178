"""Versions, processor, devices and working engines, as a bug report needs them.

Each function yields names and values, and raises what is raised where a part is broken.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib import import_module, metadata

from .cores import usable_cores
from .processor import instruction_sets, processor_name

# Distributions of the same modules, of which one is needed.
_PACKAGES: tuple[tuple[str, ...], ...] = (
    *(('mmseg_repvgg',), ('torch',), ('onedl-mmsegmentation', 'mmsegmentation')),
    *(('onedl-mmengine', 'mmengine'), ('onedl-mmcv', 'mmcv', 'mmcv-lite'), ('numpy',)),
    ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python'),
    *(('pillow',), ('safetensors',), ('onnx',), ('onnxruntime', 'onnxruntime-gpu')),
    *(('onnxscript',), ('openvino',), ('nncf',), ('cityscapesscripts',)),
    ('tensorboard',),
)
# The instruction sets that decide which kernels run, as Linux names them.
_INSTRUCTIONS = re.compile(
    r'avx2|fma|avx512f|avx\w*_(vnni|bf16|fp16)|amx_\w+|asimd|bf16|sve'
)
_SETTINGS = re.compile(r'(OMP|GOMP|KMP|MKL|ONEDNN|ATEN|WINOGRAD|CUDA)_\w+|CXX')

Rows = Iterator[tuple[str, object]]


def versions() -> Rows:
    """Yield the versions of the system, Python and the packages that matter here."""
    yield 'system', platform.platform()
    yield 'python', platform.python_version()
    for names in _PACKAGES:
        found = {name: version for name in names if (version := _installed(name))}
        yield from (found or {names[0]: 'not installed'}).items()
        if len(found) > 1:
            yield 'WARNING', f'{" and ".join(found)} overwrite each other: remove one'


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> Rows:
    """Yield the processor, its instruction sets, and what torch makes of them."""
    sets = ' '.join(filter(_INSTRUCTIONS.fullmatch, instruction_sets()))
    yield 'name', processor_name()
    yield 'instruction sets', sets or 'unknown'
    torch = import_module('torch')
    version = re.search(r'MKL-DNN (v\S+)', torch.__config__.show())
    yield 'torch computes with', torch.backends.cpu.get_cpu_capability()
    yield 'oneDNN', version[1] if version else torch.backends.mkldnn.is_available()
    yield 'threads', f'{torch.get_num_threads()} on {usable_cores()} cores'


def settings() -> Rows:
    """Yield the environment variables that change which kernels run."""
    yield from sorted(pair for pair in os.environ.items() if _SETTINGS.fullmatch(pair[0]))


def devices() -> Rows:
    """Yield what torch knows of GPUs."""
    torch = import_module('torch')
    yield 'CUDA of torch', torch.version.cuda or 'not built in'
    yield 'cuDNN', torch.backends.cudnn.version() or 'none'
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        capability = f'compute capability {facts.major}.{facts.minor}'
        memory = f'{facts.total_memory / 2**30:.1f} GiB'
        yield f'cuda:{index}', f'{facts.name}, {capability}, {memory}'


def engines() -> Rows:
    """Yield for each engine that it works, or what it lacks."""
    for engine in (pytorch, winograd, onnxruntime, openvino):
        try:
            yield engine.__name__, engine()
        except ModuleNotFoundError as error:
            yield engine.__name__, f'needs {error.name}, which is not installed'
        except Exception as error:
            yield engine.__name__, f'{type(error).__name__}: {error}'


def pytorch() -> str:
    """Import the whole package."""
    import_module('mmseg_repvgg')
    return 'works'


def winograd() -> str:
    """Compile the kernel, or find it in the cache."""
    from .kernels.build import library

    kernel = library()
    if not kernel:
        return 'its kernel does not compile, see the warning'
    units = 'with' if kernel.winograd_has_matrix_units() else 'without'
    return f'works, {units} matrix units'


def onnxruntime() -> str:
    """Return the execution providers of ONNX Runtime."""
    return ', '.join(import_module('onnxruntime').get_available_providers())


def openvino() -> str:
    """Return the devices of OpenVINO."""
    core = import_module('openvino').Core()
    return ', '.join(
        f'{device} ({core.get_property(device, "FULL_DEVICE_NAME").strip()})'
        for device in core.available_devices
    )
