"""The results of a benchmark, also of one that is not finished."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.memory import PeakMemory
from benchmarks.paper import counterparts
from benchmarks.subjects import Setup
from benchmarks.timing import Spread, Timings
from mmseg_repvgg.errors import ConfigError
from repvgg_runtime.atomic_write import write_atomically
from repvgg_runtime.special_files import refuse_special_file


@dataclass(frozen=True)
class Protocol:
    """The sizes and rounds of a measurement.

    Attributes:
        batch: Images in a batch.
        size: Height and width of the images.
        warmup: Number of untimed rounds.
        rounds: Number of timed rounds.
        budget: Seconds of the whole run, None for no limit. No round begins later, and
            no form that is slow to prepare after half of them; see
            :func:`~benchmarks.timing.time_alternating`.
    """

    batch: int
    size: tuple[int, int]
    warmup: int
    rounds: int
    budget: float | None = None


@dataclass
class Variant:
    """The results of a network in one form.

    Attributes:
        name: Name of the network.
        backbone: Type of its backbone.
        form: Name in :data:`~benchmarks.runtimes.FORMS`.
        precision: Precision of the form.
        weights: Name of the checkpoint file, or ``random``.
        note: A remark for readers of the numbers.
        failure: Why it could not be run; None if it could.
        output_error: Largest difference from the output of the fused form in torch,
            relative to the largest number of that.
        memory: Its memory, if measured.
        seconds: Time of each round.
    """

    name: str
    backbone: str
    form: str
    precision: str
    weights: str
    note: str | None = None
    failure: str | None = None
    output_error: float | None = None
    memory: PeakMemory | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Name and form, ``NAME:FORM``."""
        return f'{self.name}:{self.form}'


@dataclass
class Report:
    """The results of a benchmark so far.

    Attributes:
        setup: Input, threads and device of all variants.
        protocol: Sizes and rounds.
        machine: From :func:`~benchmarks.machine.describe_machine`.
        variants: In the order of the networks, and of the forms of each.
        baseline: Name of a network, or ``NAME:FORM``.
        warmup: Number of untimed rounds that were run.
        complete: Whether the benchmark has ended.
    """

    setup: Setup
    protocol: Protocol
    machine: dict[str, Any]
    variants: list[Variant]
    baseline: str
    warmup: int = 0
    complete: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the networks."""
        return list(dict.fromkeys(variant.name for variant in self.variants))

    @property
    def timed(self) -> dict[str, Variant]:
        """Timed variants, by key."""
        return {variant.key: variant for variant in self.variants if variant.seconds}

    @property
    def timings(self) -> Timings:
        """Times of all timed variants."""
        seconds = {key: variant.seconds for key, variant in self.timed.items()}
        return Timings(seconds, self.warmup)

    def best(self, name: str) -> Variant | None:
        """Return the fastest float32 form of a network, None if there is none."""
        keys = [
            key
            for key, variant in self.timed.items()
            if variant.name == name and variant.precision == 'float32'
        ]
        return self.timed[self.timings.fastest(keys)] if keys else None

    @property
    def reference(self) -> Variant | None:
        """The variant of the baseline that all are compared with, if it was timed."""
        if ':' in self.baseline:
            return self.timed.get(self.baseline)
        return self.best(self.baseline)

    def speedup(self, variant: Variant) -> Spread | None:
        """Return the speedup over the reference, None if one of them was not timed."""
        reference = self.reference
        if reference is None or not variant.seconds:
            return None
        return self.timings.speedup(variant.key, reference.key)

    def paper_speedups(self) -> dict[str, dict[str, Spread]]:
        """Return the speedup of each variant over its counterparts of the paper.

        Returns:
            Speedups of timed variants by key, for each description of a counterpart.
        """
        found: dict[str, dict[str, Spread]] = {}
        for key, variant in self.timed.items():
            for title, other in counterparts(variant.name, variant.form).items():
                if other in self.timed:
                    speedup = self.timings.speedup(key, other)
                    found.setdefault(title, {})[key] = speedup
        return found

    def images_per_second(self, variant: Variant) -> float:
        """Return the images per second of the median time."""
        return self.protocol.batch / self.timings.spread(variant.key).median

    def as_json(self) -> dict[str, Any]:
        """Return the report and derived figures as numbers and strings."""
        reference = self.reference
        rows = []
        for variant in self.variants:
            row = asdict(variant)
            if variant.memory is not None:
                parts = {part: getattr(variant.memory, part) for part in _MEMORY}
                row['memory'] = parts
            if variant.seconds:
                speedup = self.speedup(variant)
                row.update(
                    spread=asdict(self.timings.spread(variant.key)),
                    images_per_second=self.images_per_second(variant),
                    speedup=speedup and asdict(speedup),
                )
            rows.append(row)
        setup = asdict(self.setup)
        del setup['folder']
        best = {name: found.form for name in self.names if (found := self.best(name))}
        return {
            'complete': self.complete,
            'setup': setup,
            'protocol': {**asdict(self.protocol), 'warmup': self.warmup},
            'rounds': self.timings.rounds if self.timed else 0,
            'machine': self.machine,
            'baseline': reference.key if reference else self.baseline,
            'best': best,
            'variants': rows,
            'paper_speedups': {
                title: {key: asdict(spread) for key, spread in speedups.items()}
                for title, speedups in self.paper_speedups().items()
            },
        }

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a file that :meth:`save` wrote.

        Raises:
            ConfigError: If it is not such a file.
        """
        try:
            refuse_special_file(path)
            stored = json.loads(Path(path).read_text())
            setup, protocol = stored['setup'], stored['protocol']
            variants = []
            for row in stored['variants']:
                given = {each.name: row[each.name] for each in fields(Variant)}
                if given['memory'] is not None:
                    parts = {each.name: row['memory'][each.name] for each in _PEAK}
                    given['memory'] = PeakMemory(**parts)
                variants.append(Variant(**given))
            report = cls(
                Setup(**{**setup, 'shape': tuple(setup['shape']), 'folder': ''}),
                Protocol(**{**protocol, 'size': tuple(protocol['size'])}),
                stored['machine'],
                variants,
                stored['baseline'],
                protocol['warmup'],
                stored['complete'],
            )
            if not report.timed:
                raise ValueError('it holds no times')
            return report
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f'{path} is not a report of mmseg-repvgg benchmark ({error!r}): '
                'measure again'
            ) from error

    def compared_with(self, baseline: str) -> Report:
        """Return the report with another baseline.

        Raises:
            ConfigError: If the baseline was not timed.
        """
        report = replace(self, baseline=baseline)
        if report.reference is None:
            raise ConfigError(
                f'--baseline {baseline} is not among the timed variants: '
                f'{", ".join(self.timed)}'
            )
        return report

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, atomically.

        Raises:
            WriteError: If it cannot be written.
        """
        text = json.dumps(self.as_json(), indent=2) + '\n'
        write_atomically(path, text.encode())


_PEAK = fields(PeakMemory)
_MEMORY = ('start', 'built', 'peak', 'model', 'run', 'total')
