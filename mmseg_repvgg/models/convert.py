"""Convert checkpoint files between layouts and forms.

Every file is read back and compared with its source before it gets its name.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repvgg_runtime.atomic_write import atomic_path

from ..checkpoints.files import (
    CHECKSUM_SUFFIX,
    is_trusted,
    read_checkpoint,
    write_checkpoint,
)
from ..checkpoints.key_names import LAYOUTS, Recognised, from_native, to_native
from ..checkpoints.loading import naming_checkpoint
from ..checkpoints.state_dict import extract_state_dict, few
from ..errors import CheckpointError, ConfigError, UserError
from ..reparam import deploy
from .archs import ARCHS, get_arch, has_se, in_channels, infer_arch, kernel_shapes
from .comparison import relative_difference
from .repvgg import RepVGG

# The largest difference of any stage's output, relative to the largest output.
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Report of a conversion.

    Attributes:
        source: Layout and form of the source.
        form: The form that was written.
        layout: The layout that was written.
        arch: Name of the architecture, or its depths.
        read: Number of tensors of the backbone in the source.
        written: Number of tensors of the backbone in the new file.
        classifier: Number of tensors of a classifier, in the source and in the new file.
        rest: Number of other tensors, in the source and in the new file.
        difference: Largest difference of the outputs, relative to the largest output.
        warning: What the other project does wrong with such a file, if anything.
    """

    source: Recognised
    form: str
    layout: str
    arch: str
    read: int
    written: int
    classifier: tuple[int, int]
    rest: tuple[int, int]
    difference: float
    warning: str | None = None

    def __str__(self) -> str:
        text = (
            f'read:    RepVGG {self.arch}, layout of {self.source.layout}, '
            f'{self.source.form} form: {self.read} tensors of the backbone, '
            f'{self.classifier[0]} of the classifier, {self.rest[0]} others\n'
            f'written: layout of {self.layout}, {self.form} form: {self.written} tensors '
            f'of the backbone, {self.classifier[1]} of the classifier, {self.rest[1]} '
            'others\n'
            f'checked: the outputs differ by {self.difference:.1e} of the largest at most'
        )
        return text + (f'\nwarning: {self.warning}' if self.warning else '')


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

    The ImageNet classifier is kept in the layouts that have one. Other tensors, such as
    those of a decode head, and ``meta`` are kept in our own layout: a segmentor's
    checkpoint stays one. The state of the training (optimizer, EMA) is dropped.

    The new file is read back, and its outputs on a random image are compared with the
    source's, before it replaces ``dst``.

    Args:
        src: A file in any layout and form, in any of the usual wrappers.
        dst: A file in an existing folder; ``*.safetensors`` is written without pickle.
        to: The layout to write, one of ``LAYOUTS`` in ``checkpoints/key_names.py``.
        fuse: Whether to write the fused form; None keeps the source's form.
        arch: Name of the expected architecture; by default the shapes tell it.
        force: Whether to overwrite ``dst``.
        trust: Whether ``src`` may run code while it is read.
        eps: The value that the batch norms add to the variance; no file contains it.

    Raises:
        ConfigError: If an argument is not allowed.
        CheckpointError: If ``src`` cannot be read, is not a RepVGG, or is fused while
            the training form is requested, or if the new file computes something else.
        WriteError: If ``dst`` cannot be written. It is left unchanged by every error.
    """
    src, dst, trust = Path(src), Path(dst), is_trusted(trust)
    _check_arguments(src, dst, to, force)
    if not eps >= 0:
        raise ConfigError(f'eps must be at least 0, but got {eps}')
    checkpoint = read_checkpoint(src, trust=trust)
    with naming_checkpoint(str(src)):
        state_dict = extract_state_dict(checkpoint)
        native = to_native(state_dict)
        given = native.recognised.form
        form = given if fuse is None else 'fused' if fuse else 'training'
        if (given, form) == ('fused', 'training'):
            raise CheckpointError(
                'it is fused, and fusing cannot be undone. Convert the training-form '
                'file that it was fused from, or leave out --no-fuse'
            )
        model, name = _build(native.backbone, arch, eps)
        backbone = native.backbone if form == given else deploy(model).state_dict()
        expected = _outputs(model)
    ours = to == 'mmseg_repvgg'
    rest = native.rest if ours else {}
    # Every layout but ours has a classifier, whose tensors are a weight and a bias.
    linear = () if ours else native.classifier
    classifier = {key.rpartition('.')[2]: state_dict[key] for key in linear}
    prefix = native.recognised.prefix if rest else ''
    translated = from_native(backbone, to, classifier)
    written = {**rest, **{prefix + key: value for key, value in translated.items()}}
    content: dict[str, Any] = written
    if dst.suffix != '.safetensors' and to not in ('official', 'timm'):
        content = {'state_dict': written}
        # The meta of a trusted file may hold objects that make the new file untrusted.
        if ours and not trust and checkpoint.get('meta'):
            content['meta'] = checkpoint['meta']
    with atomic_path(dst) as temporary:
        try:
            write_checkpoint(content, temporary)
            read_back = extract_state_dict(read_checkpoint(temporary))
            _require_equal(written, read_back)
            model, _ = _build(to_native(read_back).backbone, arch, eps)
            difference = _difference(_outputs(model), expected, backbone)
        except UserError as error:
            # The user does not know the temporary file.
            message = str(error).replace(str(temporary), str(dst))
            raise type(error)(message) from error
        # The checksum of the file that is replaced would not fit the new one.
        dst.with_name(dst.name + CHECKSUM_SUFFIX).unlink(missing_ok=True)
    warning = None
    if (to, form) == ('mmpretrain', 'fused') and has_se(backbone):
        warning = (
            'the fused form of mmpretrain (1.3.6) leaves squeeze-and-excitation out and '
            'computes something else; its training form is right'
        )
    return Conversion(
        source=native.recognised,
        form=form,
        layout=to,
        arch=name,
        read=len(native.backbone),
        written=len(backbone),
        classifier=(len(native.classifier), len(classifier)),
        rest=(len(native.rest), len(rest)),
        difference=difference,
        warning=warning,
    )


def _check_arguments(src: Path, dst: Path, to: str, force: bool) -> None:
    if to not in LAYOUTS:
        raise ConfigError(f'layout must be one of {LAYOUTS}, but got {to!r}')
    if not dst.parent.is_dir():
        raise ConfigError(f'the folder {dst.parent} does not exist. Make it first')
    if dst.is_dir():
        raise ConfigError(f'{dst} is a folder; give the name of the file to write')
    if dst.exists():
        if src.exists() and src.samefile(dst):
            raise ConfigError(f'{dst} is the source itself; give another file to write')
        if not force:
            raise ConfigError(f'{dst} exists already. Pass --force to overwrite it')


def _build(
    backbone: dict[str, Tensor], name: str | None, eps: float
) -> tuple[RepVGG, str]:
    """Build the undilated net of a backbone's tensors, and name its architecture."""
    arch = get_arch(name) if name else infer_arch(backbone)
    if arch is None:
        raise CheckpointError(
            'its shapes are those of no RepVGG. Pass --arch to see which tensors differ'
        )
    shapes = kernel_shapes(backbone)
    # On the meta device no memory is allocated and no initial weights are drawn.
    with torch.device('meta'):
        model = RepVGG(
            arch,
            dilation=None,
            out_indices=tuple(range(max(1, len(shapes) - 1))),
            in_channels=in_channels(shapes),
            deploy=not any('.branch_' in key for key in backbone),
            norm_cfg=dict(type='BN', eps=eps),
        )
    # A parameter would be assigned itself, and changed with the model.
    tensors = {key: value.detach() for key, value in backbone.items()}
    model.load_state_dict(tensors, assign=True)
    names = [name for name, named in ARCHS.items() if named == arch]
    return model, names[0] if names else f'of depths {arch.depths}'


@torch.no_grad()
def _outputs(model: RepVGG) -> list[Tensor]:
    """Compute every stage's output on a random image, in float64."""
    generator = torch.Generator().manual_seed(0)
    size = (1, model.in_channels, 64, 64)
    image = torch.randn(size, generator=generator, dtype=torch.float64)
    outputs = list(model.double().eval()(image))
    if not all(output.isfinite().all() for output in outputs):
        raise CheckpointError('its outputs on a random image are not finite')
    return outputs


def _difference(
    outputs: list[Tensor], expected: list[Tensor], backbone: Mapping[str, Tensor]
) -> float:
    difference = max(map(relative_difference, outputs, expected))
    # Kernels in half precision hold the fused numbers less exactly.
    coarsest = max(torch.finfo(v.dtype).eps for v in backbone.values() if v.dim() == 4)
    if not difference <= max(TOLERANCE, 20 * coarsest):
        raise CheckpointError(
            f'the new file computes something else: its outputs differ by '
            f'{difference:.1e} of the largest. Nothing was kept'
        )
    return difference


def _require_equal(written: dict[str, Tensor], read_back: dict[str, Tensor]) -> None:
    changed = written.keys() ^ read_back.keys()
    both = written.keys() & read_back.keys()
    changed |= {key for key in both if not torch.equal(written[key], read_back[key])}
    if changed:
        raise CheckpointError(f'{few(changed)} was changed in writing. Nothing was kept')
