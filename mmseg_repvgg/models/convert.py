"""Converting checkpoint files between layouts and forms, each proved before it is there.

Every layout is read and written through our own key names (``models.layouts``), so the
proof is one for all: what was written is read again, mapped back, and must compute what
the source computes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.files import (
    CHECKSUM_SUFFIX,
    is_trusted,
    read_checkpoint,
    write_checkpoint,
)
from ..checkpoints.key_names import (
    LAYOUTS,
    Native,
    Recognised,
    from_native,
    fuse_state_dict,
    to_native,
    unwrap,
)
from ..errors import CheckpointError, ConfigError
from .archs import Arch, get_arch
from .infer_arch import has_se, in_channels, infer_arch, infer_name, kernel_shapes
from .repvgg import RepVGG

# The largest difference of any stage's output, relative to the largest output.
TOLERANCE = 1e-5

_FORGETS_SE = (
    'the fused form of mmpretrain leaves squeeze-and-excitation out (1.3.6 does), and '
    'computes something else; its training form does not'
)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        source: What the source was recognised as.
        form: The form that was written.
        layout: The layout that was written.
        arch: Name of the architecture, or its fields.
        read: Tensors of the backbone that were read.
        written: Tensors of the backbone that were written.
        others: How many tensors there are beside the backbone, by what they are, and
            whether they were written too.
        difference: Largest difference of the outputs, relative to the largest output.
        warning: What the other project does wrong with such a file, if anything.
    """

    source: Recognised
    form: str
    layout: str
    arch: str
    read: int
    written: int
    others: Mapping[str, tuple[int, bool]]
    difference: float
    warning: str | None = None

    def __str__(self) -> str:
        lines = [
            f'recognised: RepVGG {self.arch}, layout of {self.source.layout}, '
            f'{self.source.form} form, {self.read} tensors'
            + _listed('besides', {k: n for k, (n, _) in self.others.items()}),
            f'written:    layout of {self.layout}, {self.form} form, '
            f'{self.written} tensors'
            + _listed('with', {k: n for k, (n, kept) in self.others.items() if kept})
            + _listed(
                'left out', {k: n for k, (n, kept) in self.others.items() if not kept}
            )
            + f'; read back, its outputs differ by {self.difference:.1e} at most',
        ]
        if self.warning:
            lines.append(f'beware:     {self.warning}')
        return '\n'.join(lines)


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    to: str = 'mmseg_repvgg',
    fuse: bool | None = None,
    arch: str | None = None,
    force: bool = False,
    trust: bool = False,
    eps: float = 1e-5,
) -> Conversion:
    """Convert a checkpoint file to another layout, another form, or both.

    The ImageNet classifier goes along to the layouts that have one. What else a model
    has beside its backbone, such as a decode head, goes along into our own layout, as
    ``meta`` does: a segmentor's checkpoint stays one, only fused. Nothing of the
    training's state (optimizer, EMA) does.

    The new file gets its name only after it has been read back and its outputs on a
    random image, at every stage, have been compared with the source's.

    Args:
        src: In any layout and form, in any of the usual wrappers.
        dst: In a folder that exists; ``*.safetensors`` is written without pickle.
        to: The layout to write, one of ``LAYOUTS`` in ``checkpoints/key_names.py``.
        fuse: Whether to write the fused form; None keeps the source's.
        arch: Name of the architecture that ``src`` must be; by default the shapes tell.
        force: Whether ``dst`` may be overwritten.
        trust: Whether ``src`` may run code while it is read.
        eps: What the net's batch norms add to the variance; no file says so.

    Raises:
        ConfigError: If an argument is not allowed.
        CheckpointError: If ``src`` cannot be read, is no RepVGG, or is fused where the
            training form is asked for; or if what was written computes something else.
            ``dst`` is then as it was before.
    """
    src, dst, trust = Path(src), Path(dst), is_trusted(trust)
    _check_arguments(src, dst, to, force)
    checkpoint = read_checkpoint(src, trust=trust)
    with _naming(src):
        state_dict = unwrap(checkpoint)
        native = to_native(state_dict)
        _require_floats(native.backbone)
        form = _form_to_write(native.recognised.form, fuse)
        net = _Net.of(native.backbone, arch, eps)
        wanted = net.outputs(native.backbone)
        backbone = native.backbone
        if form != native.recognised.form:
            backbone = fuse_state_dict(backbone, eps)
    classifier = {key.rpartition('.')[2]: state_dict[key] for key in native.classifier}
    keep_rest = to == 'mmseg_repvgg'
    written = from_native(backbone, to, None if keep_rest else classifier)
    if keep_rest and native.rest:
        prefix = native.recognised.prefix
        written = {**native.rest, **{prefix + k: v for k, v in written.items()}}

    # What a trusted file holds beside its weights must not make the new one untrusted.
    meta = (
        None if trust or not isinstance(checkpoint, Mapping) else checkpoint.get('meta')
    )
    # The suffix stays, since it says the format.
    temporary = dst.with_name(f'.{dst.stem}.{os.getpid()}{dst.suffix}')
    try:
        write_checkpoint(_wrapped(written, to, meta, dst), temporary)
        read_back = unwrap(read_checkpoint(temporary))
        difference = _difference(net, wanted, to_native(read_back), backbone)
        _require_same(written, read_back)
        # The sum of a file of that name that is to be replaced; ours would not fit it.
        dst.with_name(dst.name + CHECKSUM_SUFFIX).unlink(missing_ok=True)
        os.replace(temporary, dst)
    except OSError as error:
        raise CheckpointError(
            f'{dst} cannot be written: {error.strerror or error}'
        ) from error
    except CheckpointError as error:
        # Who reads it knows nothing of the temporary file.
        raise CheckpointError(str(error).replace(str(temporary), str(dst))) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    others = {
        'of the classifier': (len(native.classifier), not keep_rest),
        'of other parts': (len(native.rest), keep_rest),
    }
    return Conversion(
        source=native.recognised,
        form=form,
        layout=to,
        arch=arch or net.name,
        read=len(native.backbone),
        written=len(backbone),
        others={what: number for what, number in others.items() if number[0]},
        difference=difference,
        warning=_FORGETS_SE
        if (to, form) == ('mmpretrain', 'fused') and has_se(backbone)
        else None,
    )


@dataclasses.dataclass(frozen=True)
class _Net:
    """The net that a backbone's tensors belong to, undilated."""

    arch: Arch
    name: str
    in_channels: int
    out_indices: tuple[int, ...]
    eps: float

    @classmethod
    def of(cls, backbone: Mapping[str, Tensor], name: str | None, eps: float) -> _Net:
        """Find the net by its name or else by the shapes of its tensors."""
        arch = get_arch(name) if name else infer_arch(backbone)
        if arch is None:
            raise CheckpointError(
                'its shapes are those of no RepVGG. Pass --arch to hear what is amiss'
            )
        name = name or infer_name(backbone) or f'of depths {arch.depths}'
        shapes = kernel_shapes(backbone)
        stages = max(1, *(stage for stage, _ in shapes), 1)
        return cls(arch, name, in_channels(shapes), tuple(range(stages)), eps)

    @torch.no_grad()
    def outputs(self, backbone: Mapping[str, Tensor]) -> list[Tensor]:
        """Compute every stage's output on a random image, always the same, in float64."""
        fused = not any('.branch_3x3.' in key for key in backbone)
        # On the meta device no weights are drawn that are not needed.
        with torch.device('meta'):
            model = RepVGG(
                self.arch,
                dilation=None,
                out_indices=self.out_indices,
                in_channels=self.in_channels,
                deploy=fused,
                norm_cfg=dict(type='BN', eps=self.eps),
            )
        model.load_state_dict(dict(backbone), assign=True, strict=False)
        image = torch.randn(
            1,
            self.in_channels,
            64,
            64,
            generator=torch.Generator().manual_seed(0),
            dtype=torch.float64,
        )
        outputs = list(model.double().eval()(image))
        if not all(output.isfinite().all() for output in outputs):
            raise CheckpointError('its outputs on a random image are not finite')
        return outputs


def _check_arguments(src: Path, dst: Path, to: str, force: bool) -> None:
    if to not in LAYOUTS:
        raise ConfigError(f'the layout must be one of {LAYOUTS}, but got {to!r}')
    if not dst.parent.is_dir():
        raise ConfigError(f'the folder {dst.parent} does not exist. Make it first')
    if dst.is_dir():
        raise ConfigError(f'{dst} is a folder; give the name of the file to write')
    if dst.exists():
        if src.exists() and src.samefile(dst):
            raise ConfigError(f'{dst} is the source itself; give another file to write')
        if not force:
            raise ConfigError(f'{dst} is there already. Pass --force to overwrite it')


def _form_to_write(form: str, fuse: bool | None) -> str:
    if fuse is None:
        return form
    if form == 'fused' and not fuse:
        raise CheckpointError(
            'it is fused, and the branches cannot be told apart again. Convert the '
            'training-form file that it was fused from, or leave out --no-fuse'
        )
    return 'fused' if fuse else 'training'


def _require_floats(backbone: Mapping[str, Tensor]) -> None:
    for key, value in backbone.items():
        if not (value.is_floating_point() or key.endswith('.num_batches_tracked')):
            raise CheckpointError(f'{key} is of {value.dtype}, which is no weight')


def _wrapped(state_dict: dict[str, Tensor], to: str, meta: Any, dst: Path) -> Any:
    """Pack a state dict as the project's own tools expect it."""
    if dst.suffix == '.safetensors':
        # The format refuses tensors that share memory.
        return {key: value.clone() for key, value in state_dict.items()}
    if to in ('official', 'timm'):
        return state_dict
    kept = {'meta': meta} if meta is not None and to == 'mmseg_repvgg' else {}
    return {**kept, 'state_dict': state_dict}


def _difference(
    net: _Net, wanted: list[Tensor], again: Native, backbone: Mapping[str, Tensor]
) -> float:
    """Compare the outputs of what was read back with those of the source."""
    differences = [
        float((a - b).abs().max() / a.abs().max().clamp(min=torch.finfo(a.dtype).tiny))
        for a, b in zip(wanted, net.outputs(again.backbone))
    ]
    # Unlike max(), a tensor's maximum keeps NaN.
    difference = float(torch.tensor(differences, dtype=torch.float64).max())
    # Half-precision kernels cannot hold the fused numbers any better than this.
    coarsest = max(torch.finfo(v.dtype).eps for v in backbone.values() if v.dim() == 4)
    if not difference <= max(TOLERANCE, 20 * coarsest):
        raise CheckpointError(
            f'what was written computes something else: its outputs differ by '
            f'{difference:.1e} of the largest. Nothing was kept'
        )
    return difference


def _require_same(written: Mapping[str, Tensor], read_back: Mapping[str, Tensor]) -> None:
    for key in written.keys() | read_back.keys():
        if key not in written or key not in read_back:
            raise CheckpointError(f'{key} was lost in writing. Nothing was kept')
        if not torch.equal(written[key], read_back[key]):
            raise CheckpointError(f'{key} was changed in writing. Nothing was kept')


@contextlib.contextmanager
def _naming(src: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f'{src}: {error}') from error


def _listed(what: str, numbers: Mapping[str, int]) -> str:
    if not numbers:
        return ''
    return f', {what} ' + ' and '.join(f'{n} {name}' for name, n in numbers.items())
