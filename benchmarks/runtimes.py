"""The forms in which a network can be run, each as a function without arguments."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from benchmarks.ncnn_phases import place_side_by_side
from benchmarks.subjects import Subject
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.export.openvino_winograd import use_winograd
from mmseg_repvgg.export.quantized import missing_for_int8
from mmseg_repvgg.models.comparison import relative_difference
from mmseg_repvgg.models.tf32 import tf32
from mmseg_repvgg.reparam import deploy
from mmseg_repvgg.reparam.deploy import ENGINES
from repvgg_runtime.extras import quiet, require
from repvgg_runtime.kernels.build import library
from repvgg_runtime.signal_stack import keep_signal_stack

Run = Callable[[], Any]
"""A function that computes the output, a tensor or an array."""


@dataclass(frozen=True)
class Form:
    """A way of running a network.

    Attributes:
        make: Prepares a network.
        precision: Precision of its numbers; only float32 forms are compared.
        on_gpu: Whether it can be run on a CUDA device.
        on_cpu: Whether it can be run on a CPU.
        slow: Whether preparing it may take minutes.
    """

    make: Callable[[Subject], Run]
    precision: str = 'float32'
    on_gpu: bool = False
    on_cpu: bool = True
    slow: bool = False


def _training(subject: Subject) -> Run:
    return _torch(subject.trained, subject.input)


def _fused(subject: Subject) -> Run:
    return _torch(subject.fused, subject.input)


def _channels_last(
    subject: Subject,
    dtype: torch.dtype = torch.float32,
    engine: str = 'torch',
    precision: str = 'highest',
    allow_tf32: bool = False,
) -> Run:
    if engine in ('winograd', 'auto') and library() is None:
        raise ConfigError(
            'winograd.cpp could not be compiled here, so it cannot be timed: install '
            'g++, or name a compiler by CXX'
        )
    layout: dict[str, Any] = dict(dtype=dtype, memory_format=torch.channels_last)
    # A copy with its own parameters, converted before the engine packs its weights.
    network = deploy(deploy(subject.fused).to(**layout), engine, precision)
    return _torch(network, subject.input.to(**layout), allow_tf32)


def _compile(subject: Subject) -> Run:
    # With freezing, weights are constants that the compiler may lay out anew.
    network = torch.compile(subject.graph, fullgraph=True, options={'freezing': True})
    return _torch(network, subject.input)


def _cuda_graphs(subject: Subject) -> Run:
    """Capture the fused form as a CUDA graph at the first call."""
    run, graph = _fused(subject), torch.cuda.CUDAGraph()
    output: list[Tensor] = []

    def replay() -> Tensor:
        if not output:
            # cuDNN and cuBLAS must be initialised before, on another stream.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph, pool=_first_graph().pool()):
                output.append(run())
        graph.replay()
        return output[0]

    return replay


@functools.cache
def _first_graph() -> Any:
    """Return a graph whose memory pool all later ones share.

    No two graphs run at once, but a replay may overwrite the output of another.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.zeros(1, device='cuda')
    return graph


def _torch(
    network: nn.Module | Callable[[Tensor], Tensor], x: Tensor, allow_tf32: bool = False
) -> Run:
    def run() -> Tensor:
        # By default PyTorch computes float32 convolutions in TF32 on a GPU.
        with torch.inference_mode(), tf32(allow_tf32):
            return network(x)

    return run


def _onnxruntime(subject: Subject) -> Run:
    runtime = require('onnxruntime')
    options = runtime.SessionOptions()
    options.intra_op_num_threads = subject.setup.threads
    # Spinning threads would slow down the next form.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    session = runtime.InferenceSession(
        str(subject.onnx), options, providers=['CPUExecutionProvider']
    )
    (name,) = (value.name for value in session.get_inputs())
    x = subject.input.numpy()
    return lambda: session.run(None, {name: x})[0]


def _openvino(subject: Subject, precision: str = 'f32') -> Run:
    return _run_openvino(subject, subject.onnx, precision)


def _openvino_winograd(subject: Subject, precision: str = 'highest') -> Run:
    return _run_openvino(subject, subject.onnx, 'f32', winograd=precision)


def _int8(subject: Subject) -> Run:
    return _run_openvino(subject, subject.int8, 'f32')


def _ncnn(subject: Subject) -> Run:
    return _run_ncnn(subject, subject.fused)


def _ncnn_phases(subject: Subject) -> Run:
    return _run_ncnn(subject, place_side_by_side(subject.on_phases().fused))


def _run_ncnn(subject: Subject, graph: nn.Module) -> Run:
    ncnn, pnnx = require('ncnn', 'ncnn'), require('pnnx', 'ncnn')
    shape = subject.setup.shape
    if shape[0] != 1:
        raise ConfigError(f'ncnn takes one image at once, but --batch is {shape[0]}')
    with tempfile.TemporaryDirectory(dir=subject.setup.folder) as folder:
        with quiet():
            traced = torch.jit.trace(graph, subject.input, check_trace=False)
        traced.save(f'{folder}/net.pt')
        sides = f'inputshape=[{",".join(map(str, shape))}]'
        command = [pnnx.EXEC_PATH, 'net.pt', sides, 'fp16=0']
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        network = ncnn.Net()
        network.opt.num_threads = subject.setup.threads
        if network.load_param(f'{folder}/net.ncnn.param'):
            raise ConfigError('ncnn does not know an operation of this network')
        network.load_model(f'{folder}/net.ncnn.bin')
    image = subject.input[0].numpy()

    def run() -> Any:
        extractor = network.create_extractor()
        extractor.input('in0', ncnn.Mat(image))
        return numpy.array(extractor.extract('out0')[1])[None]

    return run


def _on_phases(make: Callable[[Subject], Run]) -> Callable[[Subject], Run]:
    """Return what prepares a network whose dilated blocks are computed on phases."""
    return lambda subject: make(subject.on_phases())


@keep_signal_stack()
def _run_openvino(
    subject: Subject, file: Path, precision: str, winograd: str | None = None
) -> Run:
    core = require('openvino').Core()
    model = core.read_model(file)
    if winograd:
        use_winograd(model, subject.graph, winograd)
    threads = subject.setup.threads
    settings = {
        'INFERENCE_PRECISION_HINT': precision,
        'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_NUM_THREADS': threads,
    }
    compiled = core.compile_model(model, 'CPU', settings)
    used = compiled.get_property('INFERENCE_NUM_THREADS')
    if used != threads:
        raise ConfigError(f'OpenVINO takes {used} threads, not {threads}')
    taken = compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()
    if taken != precision:
        raise ConfigError(
            f'OpenVINO computes in {taken} here: this processor has no instructions for '
            f'{precision}'
        )
    x = subject.input.numpy()
    return lambda: compiled(x)[0]


FORMS: dict[str, Form] = {
    'training': Form(_training, on_gpu=True),
    'fused': Form(_fused, on_gpu=True),
    'channels-last': Form(_channels_last, on_gpu=True),
    **{
        engine: Form(partial(_channels_last, engine=engine), on_gpu=engine == 'phases')
        for engine in ENGINES
        if engine != 'torch'
    },
    'winograd-high': Form(partial(_channels_last, engine='winograd', precision='high')),
    'compile': Form(_compile, on_gpu=True, slow=True),
    'cuda-graphs': Form(_cuda_graphs, on_gpu=True, on_cpu=False),
    'onnxruntime': Form(_onnxruntime),
    'onnxruntime-phases': Form(_on_phases(_onnxruntime)),
    'openvino': Form(_openvino),
    'openvino-phases': Form(_on_phases(_openvino)),
    'openvino-winograd': Form(_openvino_winograd),
    'openvino-winograd-high': Form(partial(_openvino_winograd, precision='high')),
    'ncnn': Form(_ncnn),
    'ncnn-phases': Form(_ncnn_phases),
    'tf32': Form(
        partial(_channels_last, allow_tf32=True), 'tf32', on_gpu=True, on_cpu=False
    ),
    'fp16': Form(
        partial(_channels_last, dtype=torch.float16), 'float16', on_gpu=True, on_cpu=False
    ),
    'tf32-phases': Form(
        partial(_channels_last, engine='phases', allow_tf32=True),
        'tf32',
        on_gpu=True,
        on_cpu=False,
    ),
    'fp16-phases': Form(
        partial(_channels_last, engine='phases', dtype=torch.float16),
        'float16',
        on_gpu=True,
        on_cpu=False,
    ),
    'bf16': Form(partial(_channels_last, dtype=torch.bfloat16), 'bfloat16', True),
    'winograd-medium': Form(
        partial(_channels_last, engine='winograd', precision='medium'), 'bfloat16'
    ),
    'openvino-winograd-medium': Form(
        partial(_openvino_winograd, precision='medium'), 'bfloat16'
    ),
    'openvino-bf16': Form(partial(_openvino, precision='bf16'), 'bfloat16'),
    'int8': Form(_int8, 'int8', slow=True),
    'int8-phases': Form(_on_phases(_int8), 'int8', slow=True),
}
"""Forms by name, in the order in which they are reported."""


def note(subject: Subject, form: str) -> str | None:
    """Return a remark for readers of the numbers, or None."""
    if FORMS[form].precision != 'int8':
        return None
    random = None
    if subject.source.int8 is None or form != 'int8':
        random = 'calibrated on random numbers: only its speed is meaningful'
    return '; '.join(filter(None, (random, missing_for_int8()))) or None


def difference(output: Any, reference: Any) -> float:
    """Return how far an output is from the reference, relative to its largest number.

    Args:
        output: A tensor or an array.
        reference: The same.

    Raises:
        ConfigError: If the shapes differ.
    """
    ours, theirs = torch.as_tensor(output), torch.as_tensor(reference)
    if ours.shape != theirs.shape:
        raise ConfigError(
            f'its output has the shape {tuple(ours.shape)}, that of the fused form is '
            f'{tuple(theirs.shape)}'
        )
    return relative_difference(ours, theirs)
