"""Time networks in several forms against each other on the same input.

All forms are built and run once first, which shows what cannot run here and whether their
outputs agree; then they are timed in alternating rounds. See ``docs/benchmark.md``.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log

from benchmarks.machine import describe_machine, using_threads
from benchmarks.memory import give_back, peak_memory, run_on_gpu
from benchmarks.report import Protocol, Report, Variant
from benchmarks.runtimes import FORMS, Run, difference, note
from benchmarks.subjects import Setup, Source, Subject, check_int8
from benchmarks.timing import Timings, time_alternating
from mmseg_repvgg.errors import ConfigError, UserError
from mmseg_repvgg.registry_types import type_name

# Largest relative difference of the output of a float32 form.
TOLERANCE = 1e-3

PROTOCOLS = {
    'cpu': Protocol(1, (256, 512), 2, 11),
    'paper': Protocol(16, (713, 713), 2, 50, budget=420),
}
"""A quick protocol for a CPU, and the paper's input for a GPU within 8 minutes."""


def benchmark(
    sources: Sequence[Source],
    forms: Sequence[str],
    protocol: Protocol,
    *,
    threads: int,
    device: str = 'cpu',
    backbone_only: bool = False,
    baseline: str | None = None,
    memory: bool = False,
    on_progress: Callable[[Report], Any] | None = None,
) -> Report:
    """Measure every network in every form.

    A form that cannot run here, or whose output differs, is reported with the reason.

    Args:
        sources: The networks.
        forms: Names in :data:`~benchmarks.runtimes.FORMS`.
        protocol: Sizes, rounds and budget.
        threads: Number of threads of each form.
        device: Device of torch.
        backbone_only: Whether to leave out the heads.
        baseline: Name of the network to compare with, in its fastest float32 form, or
            ``NAME:FORM``; by default the first network.
        memory: Whether to measure peak memory on a CPU as well, each in its own process.
            On a GPU it is always measured.
        on_progress: Called with the report before the first round and after each.

    Raises:
        ConfigError: If an argument is not allowed, the networks take different inputs,
            or nothing can be run.
        CheckpointError: If a checkpoint cannot be read or does not fit.
    """
    _check(sources, forms, protocol, device, baseline)
    start = time.monotonic()
    budget = math.inf if protocol.budget is None else protocol.budget

    def left() -> float:
        """Return the remaining seconds of the budget."""
        return max(0, budget - (time.monotonic() - start))

    with (
        using_threads(threads),
        tempfile.TemporaryDirectory(prefix='mmseg_repvgg_') as folder,
    ):
        setup = Setup(
            (protocol.batch, 3, *protocol.size), threads, device, backbone_only, folder
        )
        subjects = [Subject(source, setup) for source in sources]
        setup = replace(setup, shape=_common_shape(subjects, setup))
        if 'int8' in forms:
            for source in sources:
                if source.int8 is not None:
                    check_int8(source.int8, setup)
        variants: list[Variant] = []
        runs: dict[str, Run] = {}
        report = Report(
            setup, protocol, describe_machine(), variants, baseline or sources[0].name
        )
        for source in sources:
            subject = Subject(source, setup)
            try:
                reference = FORMS['fused'].make(subject)()
            except UserError:
                # A wrong config or checkpoint affects every form.
                raise
            except Exception as error:
                failure = _said(error)
                _log(f'{source.name}: {failure}')
                variants += [_variant(subject, form, failure) for form in forms]
                continue
            for form in forms:
                _log(f'{source.name}: {form}')
                late = left() < budget / 2
                variant, run = _prepare(subject, form, reference, late)
                variants.append(variant)
                if run is not None:
                    runs[variant.key] = run
                if memory and run is not None and device == 'cpu':
                    _measure_memory(variant, source, setup)
                if on_progress is not None:
                    on_progress(report)
            del subject, reference
            give_back()
        if not runs:
            said = '; '.join(f'{variant.key}: {variant.failure}' for variant in variants)
            raise ConfigError(f'nothing can be run here: {said}')
        if ':' in report.baseline and report.baseline not in runs:
            _log(f'{report.baseline} cannot be run, so there are no ratios')

        def take(timings: Timings) -> None:
            report.warmup = timings.warmup
            for variant in variants:
                variant.seconds = timings.seconds.get(variant.key, [])
            _log(f'round {timings.rounds} of {protocol.rounds}')
            if on_progress is not None:
                on_progress(report)

        time_alternating(
            runs,
            warmup=protocol.warmup,
            rounds=protocol.rounds,
            budget=left(),
            device=device,
            on_round=take,
        )
    report.complete = True
    if on_progress is not None:
        on_progress(report)
    return report


def build(source: Source, form: str, setup: Setup) -> Run:
    """Prepare a network in a form to be run; picklable for other processes."""
    torch.set_num_threads(setup.threads)
    return FORMS[form].make(Subject(source, setup))


def _check(
    sources: Sequence[Source],
    forms: Sequence[str],
    protocol: Protocol,
    device: str,
    baseline: str | None,
) -> None:
    names = [source.name for source in sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            f'{", ".join(sorted(twice))} is given twice: each config needs its own name'
        )
    for form in forms:
        if form not in FORMS:
            raise ConfigError(
                f'--forms must be among {", ".join(FORMS)}, but got {form!r}'
            )
        if not (FORMS[form].on_cpu if device == 'cpu' else FORMS[form].on_gpu):
            only = 'a GPU' if device == 'cpu' else 'the CPU'
            raise ConfigError(f'{form} is measured on {only} only, not on {device}')
    if device != 'cpu' and not torch.cuda.is_available():
        raise ConfigError(
            f'--device {device} needs a CUDA device: torch.cuda.is_available() is False. '
            'Give --device cpu to measure on the CPU'
        )
    name, _, form = (baseline or names[0]).partition(':')
    if name not in names or (form and form not in forms):
        raise ConfigError(
            f'--baseline {baseline} is not among the measured networks and forms: '
            f'{", ".join(names)}; {", ".join(forms)}'
        )
    least = min(protocol.batch, *protocol.size, protocol.rounds)
    if least < 1 or min(protocol.warmup, protocol.budget or 0) < 0:
        raise ConfigError(
            'batch, size and rounds must be at least 1, warmup and budget at least 0, '
            f'but got {protocol}'
        )


def _common_shape(subjects: Sequence[Subject], setup: Setup) -> tuple[int, int, int, int]:
    channels = {subject.source.name: subject.channels for subject in subjects}
    if len(set(channels.values())) > 1:
        said = ', '.join(f'{name} {count}' for name, count in channels.items())
        raise ConfigError(
            f'networks with different input channels cannot be compared: {said}'
        )
    batch, _, *size = setup.shape
    return (batch, next(iter(channels.values())), size[0], size[1])


def _prepare(
    subject: Subject, form: str, reference: Any, late: bool
) -> tuple[Variant, Run | None]:
    """Run a form for the first time; a failure is recorded in its variant."""
    variant = _variant(subject, form)
    try:
        if late and FORMS[form].slow:
            raise ConfigError('left out, since half of --budget had been used')
        variant.note = note(subject, form)
        if subject.setup.device == 'cpu':
            run = FORMS[form].make(subject)
            output = run()
        else:
            # Shared weights would be counted for one form only.
            again = partial(build, subject.source, form, subject.setup)
            run, output, variant.memory = run_on_gpu(again)
        variant.output_error = difference(output, reference)
    except Exception as error:
        # Each backend raises its own errors, and the other forms can go on.
        variant.failure = _said(error)
        _log(f'{variant.key}: {variant.failure}')
        return variant, None
    # A comparison with NaN is false, so NaN fails as well.
    if variant.precision == 'float32' and not variant.output_error <= TOLERANCE:
        variant.failure = (
            f'computes something else: its output differs by {variant.output_error:.1e}'
        )
        return variant, None
    return variant, run


def _variant(subject: Subject, form: str, failure: str | None = None) -> Variant:
    source = subject.source
    weights = Path(source.checkpoint).name if source.checkpoint else 'random'
    return Variant(
        source.name,
        type_name(subject.cfg.model.backbone),
        form,
        FORMS[form].precision,
        weights,
        failure=failure,
    )


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [repr(error)]
    return f'{type(error).__name__}: {lines[0]}'


def _measure_memory(variant: Variant, source: Source, setup: Setup) -> None:
    try:
        variant.memory = peak_memory(build, source, variant.form, setup)
    except Exception as error:
        _log(f'peak memory of {variant.key}: {error}')


def _log(message: str) -> None:
    print_log(message, 'current')
