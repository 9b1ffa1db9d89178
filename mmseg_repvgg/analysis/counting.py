"""Count parameters and operations of a network, in its training and its fused form.

torch's own counter counts on the meta device, which computes shapes only. The paper's
"Winograd MULs" are added here (Ding et al., CVPR 2021, Tables 2 and 4,
https://arxiv.org/abs/2101.03697): F(2x2, 3x3) needs 16 multiplications where a direct 3x3
convolution of stride 1 needs 36. ``docs/counting.md`` has definitions and a comparison.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from prettytable import PrettyTable, TableStyle
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from ..engine.load_model import image_bands
from ..errors import ConfigError
from ..reparam import deploy, is_deployed

IMAGENET_SIZE = (224, 224)
FORMATS = ('table', 'markdown', 'json')

_aten = torch.ops.aten
# Convolutions, linear layers and matrix products all dispatch to these.
_PRODUCTS = (_aten.convolution, _aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm)


@dataclass(frozen=True)
class Counts:
    """The number of parameters, and the cost of a forward pass.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates of convolutions, linear layers and matrix products.
        winograd_muls: Multiplications of these, with Winograd where it is possible.
        activations: Elements of their outputs.
    """

    params: int
    macs: int
    winograd_muls: int
    activations: int


@dataclass(frozen=True)
class Row:
    """The counts of one part of a network in one form, for one image.

    Attributes:
        network: Name of the network.
        part: ``backbone``, ``segmentor`` (with its decode head) or ``classifier``.
        form: ``training`` or ``fused``; ``single`` if there is nothing to fuse.
        size: Height and width of the image in pixels.
        counts: The counts.
    """

    network: str
    part: str
    form: str
    size: tuple[int, int]
    counts: Counts


@torch.no_grad()
def count(model: nn.Module, input_shape: Sequence[int]) -> Counts:
    """Count a model in evaluation mode by a forward pass on the meta device.

    As in the paper, norms, activation functions, pooling and resizing count for their
    parameters only. The model takes one tensor of the input shape and is not changed.
    """
    shadow = copy.deepcopy(model).to('meta')
    # Not chained, since mmseg's ResNet.eval() returns None.
    shadow.eval()
    macs = FlopCounterMode(display=False)
    winograd = FlopCounterMode(
        display=False, custom_mapping={_aten.convolution: _winograd_flops}
    )
    elements = dict.fromkeys(_PRODUCTS, lambda *_, out_shape, **__: prod(out_shape))
    outputs = FlopCounterMode(display=False, custom_mapping=elements)
    with macs, winograd, outputs:
        shadow(torch.empty(tuple(input_shape), device='meta'))
    counted = outputs.get_flop_counts().get('Global', {})
    return Counts(
        sum(parameter.numel() for parameter in model.parameters()),
        # One multiply-accumulate is two floating-point operations.
        macs.get_total_flops() // 2,
        winograd.get_total_flops() // 2,
        sum(counted.get(product, 0) for product in _PRODUCTS),
    )


def _winograd_flops(
    x: Any, weight: Any, bias: Any, stride: Any, *more: Any, out_shape: Any
) -> int:
    """Return the FLOPs of a convolution from the shapes that torch's counter gives."""
    _padding, _dilation, transposed, *_ = more
    flops = conv_flop_count(x, weight, out_shape, transposed=transposed)
    fast = tuple(weight[2:]) == (3, 3) and tuple(stride) == (1, 1) and not transposed
    return flops * 4 // 9 if fast else flops


def count_network(
    name: str,
    cfg: Config,
    size: tuple[int, int] | None = None,
    *,
    classifier: bool = False,
) -> list[Row]:
    """Count backbone and segmentor of a config in both forms, without any weights.

    The auxiliary head, which only training runs, is left out.

    Args:
        name: Name of the network.
        cfg: From :func:`~mmseg_repvgg.engine.config.network_config`.
        size: Height and width of the image in pixels. The default is the window that the
            config slides over the image, else its training crop, else, for a backbone
            alone, 224x224.
        classifier: Whether to count the backbone with ImageNet's linear layer as well, as
            the paper's tables do.

    Raises:
        ConfigError: If the network cannot be built, or cannot take such an image.
    """
    height, width = size or _default_size(name, cfg)
    if min(height, width) < 1:
        raise ConfigError(
            f'the image must have at least 1x1 pixels, but got {height}x{width}'
        )
    channels = image_bands(cfg)
    rows = []
    for part, model in _parts(cfg, classifier, channels).items():
        forms = {'training': model, 'fused': deploy(model)}
        if is_deployed(model):
            forms = {'single': model}
        for form, net in forms.items():
            try:
                counts = count(net, (1, channels, height, width))
            except (AssertionError, RuntimeError, ValueError) as error:
                raise ConfigError(
                    f'the {part} of {name} cannot take an image of {height}x{width}: '
                    f'{str(error).partition(chr(10))[0] or type(error).__name__}'
                ) from error
            rows.append(Row(name, part, form, (height, width), counts))
    return rows


def show(rows: Sequence[Row], form: str = 'table') -> str:
    """Format counts, of one network or several, in one of :data:`FORMATS`.

    Tables are in units of 1e6 and 1e9; the JSON is a list of objects with whole numbers.
    """
    if form == 'json':
        return json.dumps([_as_dict(row) for row in rows], indent=2)
    names = ['network', 'part', 'form', 'size']
    units = ['params (M)', 'MACs (G)', 'Winograd MULs (G)', 'activations (M)']
    table = PrettyTable(names + units, align='r')
    for name in names[:3]:
        table.align[name] = 'l'
    for row in rows:
        scaled = [
            f'{count / unit:.2f}'
            for count, unit in zip(vars(row.counts).values(), (1e6, 1e9, 1e9, 1e6))
        ]
        size = f'{row.size[0]}x{row.size[1]}'
        table.add_row([row.network, row.part, row.form, size, *scaled])
    if form == 'markdown':
        table.set_style(TableStyle.MARKDOWN)
    return table.get_string()


def _as_dict(row: Row) -> dict[str, str | int]:
    return {
        'network': row.network,
        'part': row.part,
        'form': row.form,
        'height_pixels': row.size[0],
        'width_pixels': row.size[1],
        'params': row.counts.params,
        'macs_per_image': row.counts.macs,
        'winograd_muls_per_image': row.counts.winograd_muls,
        'activations_per_image': row.counts.activations,
    }


class Classifier(nn.Module):
    """A backbone whose last map, of ``channels``, is averaged and classified."""

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.linear = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 1000), the classes of ImageNet."""
        return self.linear(self.backbone(x)[-1].mean((2, 3)))


def _default_size(name: str, cfg: Config) -> tuple[int, int]:
    test_cfg = cfg.model.get('test_cfg') or {}
    crop = (cfg.model.get('data_preprocessor') or {}).get('size')
    size = test_cfg.get('crop_size') if test_cfg.get('mode') == 'slide' else crop
    if size is None and 'decode_head' in cfg.model:
        raise ConfigError(
            f'{name} has neither a sliding window nor a crop size in '
            'model.data_preprocessor: give --size H W'
        )
    height, width = size or IMAGENET_SIZE
    return height, width


def _parts(cfg: Config, classifier: bool, channels: int) -> dict[str, nn.Module]:
    """Build the parts to count, by name."""
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    run = {key: value for key, value in cfg.model.items() if key != 'auxiliary_head'}
    model = _build(run if 'decode_head' in run else run['backbone'])
    backbone = getattr(model, 'backbone', model)
    parts: dict[str, nn.Module] = {'backbone': backbone}
    if model is not backbone:
        parts['segmentor'] = model
    if classifier:
        backbone.eval()
        with torch.device('meta'):
            maps = backbone(torch.empty(1, channels, 64, 64))
            parts['classifier'] = Classifier(backbone, maps[-1].shape[1])
    return parts


def _build(cfg: dict[str, Any]) -> Any:
    """Build on the meta device, which allocates no weights."""
    try:
        with torch.device('meta'):
            return MODELS.build(cfg)
    except RuntimeError:
        # Some networks, such as Swin, compute with values while they are built.
        return MODELS.build(cfg).to('meta')
