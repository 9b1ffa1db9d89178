"""Measure the gains and costs of the Winograd engine.

A network at full and at fast dilation is timed against a peer in the fastest of the stock
runtimes, in alternating rounds; see ``docs/winograd_measured.md``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.benchmark import build
from benchmarks.machine import using_threads
from benchmarks.memory import PeakMemory, peak_memory
from benchmarks.runtimes import FORMS, Run, difference
from benchmarks.subjects import Setup, Source, Subject
from benchmarks.timing import Spread, Timings, time_alternating
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.reparam import deploy

STOCK = ('channels-last', 'onnxruntime', 'openvino')
"""Forms of the peer that do not use this package."""

FORM_OF_PRECISION = {
    'highest': 'winograd',
    'high': 'winograd-high',
    'medium': 'winograd-medium',
}
"""The form of the benchmark for each precision of the engine."""

OUR_HEAD = tuple(f'{form}, winograd head' for form in STOCK)
"""The same forms of its backbone, with a head computed by Winograd."""


@dataclass(frozen=True)
class Speed:
    """Times at one size.

    Attributes:
        size: Height and width of the image.
        timings: Times of ``peer FORM``, ``full FORM`` and ``fast winograd``; for a
            segmentor also of ``peer FORM, winograd head``.
    """

    size: tuple[int, int]
    timings: Timings

    def best_of_peer(self, *forms: str) -> str:
        """Return the name of the fastest of the peer's forms."""
        return self.timings.fastest([f'peer {form}' for form in forms])

    def over_peer(self, *forms: str) -> Spread:
        """Return the speedup over the fastest of the peer's forms."""
        return self.timings.speedup('full winograd', self.best_of_peer(*forms))

    def ratios(self) -> dict[str, Spread]:
        """Return the ratios of times in ``docs/winograd_measured.md``, by description."""
        peers: list[tuple[str, ...]] = [STOCK, ('winograd',)]
        if f'peer {OUR_HEAD[0]}' in self.timings.seconds:
            peers.insert(1, OUR_HEAD)
        speedup = self.timings.speedup
        return {
            **{
                f'full winograd over {self.best_of_peer(*forms)}': self.over_peer(*forms)
                for forms in peers
            },
            'full winograd over full direct': speedup(
                'full winograd', 'full channels-last'
            ),
            'full over fast, winograd': speedup('full winograd', 'fast winograd'),
        }


def measure_speed(
    ours: Source,
    peer: Source,
    setup: Setup,
    *,
    precision: str = 'highest',
    warmup: int = 1,
    rounds: int = 9,
) -> Speed:
    """Time a network with Winograd against a peer and itself.

    The peer is also timed with the Winograd engine: as a whole (``peer winograd``) and,
    for a segmentor, in the head alone, with the backbone in every stock runtime (``peer
    FORM, winograd head``).

    Args:
        ours: A RepVGG backbone or segmentor of any dilation.
        peer: A network with the same input.
        setup: Size, threads, and whether without heads.
        precision: Of the engine, in all networks.
        warmup: Number of untimed rounds.
        rounds: Number of timed rounds.

    Raises:
        ConfigError: If there are no rounds or pixels.
    """
    if rounds < 1 or min(setup.shape) < 1:
        raise ConfigError(
            f'--rounds and --size must be at least 1, but got {rounds} and '
            f'{"x".join(map(str, setup.shape[2:]))}'
        )
    with (
        using_threads(setup.threads),
        tempfile.TemporaryDirectory(prefix='mmseg_repvgg_') as folder,
    ):
        setup = replace(setup, folder=folder)
        full, fast = (Subject(dilated(ours, how), setup) for how in ('full', 'fast'))
        other = Subject(peer, setup)
        winograd = FORMS[FORM_OF_PRECISION[precision]].make
        runs: dict[str, Run] = {
            'full channels-last': FORMS['channels-last'].make(full),
            'full winograd': winograd(full),
            'fast winograd': winograd(fast),
            'peer winograd': winograd(other),
        }
        subjects = [full, fast, other]
        for form in STOCK:
            runs[f'peer {form}'] = FORMS[form].make(other)
        if not setup.backbone_only:
            subjects.append(other.backbone())
            head = _head_by_winograd(other, precision)
            for form, name in zip(STOCK, OUR_HEAD):
                runs[f'peer {name}'] = _joined(FORMS[form].make(subjects[-1]), head)
        for subject in subjects:
            # Free the networks from which the forms were made.
            subject.__dict__.clear()
        timings = time_alternating(runs, warmup=warmup, rounds=rounds)
    height, width = setup.shape[2:]
    return Speed((height, width), timings)


def _head_by_winograd(subject: Subject, precision: str) -> Callable[[Tensor], Tensor]:
    """Return the decode head, from the backbone's last map to the logits."""
    whole: Any = deploy(subject.fused)
    model = whole.to(memory_format=torch.channels_last).model
    head: Any = deploy(model.decode_head, 'winograd', precision)
    size = subject.setup.shape[2:]
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size)

    def run(y: Tensor) -> Tensor:
        y = y.contiguous(memory_format=torch.channels_last)
        # The head picks its map by index; PSPNet takes the last.
        maps = [y] * len(model.backbone.out_indices)
        return head.predict(maps, [meta] * len(y), model.test_cfg)

    return run


def _joined(body: Run, head: Callable[[Tensor], Tensor]) -> Run:
    def run() -> Tensor:
        with torch.inference_mode():
            return head(torch.as_tensor(body()))

    return run


def dilated(source: Source, how: str) -> Source:
    """Return the same RepVGG network with another dilation."""
    return replace(source, options={**source.options, 'model.backbone.dilation': how})


@dataclass(frozen=True)
class Errors:
    """Largest errors against float64, relative to the largest number.

    Attributes:
        direct: Error of the fused float32 network in PyTorch.
        channels_last: Error with channels last, for which PyTorch has other kernels.
        winograd: Error with Winograd.
    """

    direct: float
    channels_last: float
    winograd: float


def measure_errors(source: Source, setup: Setup, precision: str = 'highest') -> Errors:
    """Compare the engines with the training form in float64."""
    with using_threads(setup.threads):
        subject = Subject(dilated(source, 'full'), setup)
        expected = _output(subject.trained.double(), subject.input.double())
        subject = Subject(dilated(source, 'full'), setup)
        return Errors(
            *(
                difference(FORMS[form].make(subject)(), expected)
                for form in ('fused', 'channels-last', FORM_OF_PRECISION[precision])
            )
        )


@torch.inference_mode()
def _output(network: nn.Module, x: Tensor) -> Tensor:
    return network(x)


def measure_memory(
    source: Source, setup: Setup, precision: str = 'highest'
) -> tuple[PeakMemory, PeakMemory]:
    """Measure the peak memory without and with the engine, each in its own process."""
    direct, winograd = (
        peak_memory(build, dilated(source, 'full'), form, setup)
        for form in ('channels-last', FORM_OF_PRECISION[precision])
    )
    return direct, winograd


@dataclass(frozen=True)
class Growth:
    """Growth of the time with the image.

    Attributes:
        seconds: Median time by height and width.
        slope: Slope of log time over log pixels; 1 is linear.
    """

    seconds: dict[tuple[int, int], float]
    slope: float


def measure_growth(
    source: Source,
    setup: Setup,
    sizes: Sequence[tuple[int, int]] = ((256, 512), (512, 1024), (1024, 2048)),
    *,
    precision: str = 'highest',
    rounds: int = 5,
) -> Growth:
    """Time the Winograd engine at several sizes in alternating rounds."""
    with using_threads(setup.threads):
        subject = Subject(dilated(source, 'full'), setup)
        network = deploy(subject.fused, 'winograd', precision)
        inputs = [torch.randn(*setup.shape[:2], *size) for size in sizes]
        runs = {str(size): partial(_output, network, x) for size, x in zip(sizes, inputs)}
        timings = time_alternating(runs, warmup=1, rounds=rounds)
    seconds = {size: timings.spread(str(size)).median for size in sizes}
    pixels = [height * width for height, width in sizes]
    slope = np.polyfit(np.log(pixels), np.log(list(seconds.values())), 1)[0]
    return Growth(seconds, float(slope))
