"""Count parameters and operations of a network, in its training and its fused form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from prettytable import PrettyTable, TableStyle
from torch import Tensor, nn

from ..errors import ConfigError
from ..reparam import deploy, is_deployed
from .counting import Counts, count

IMAGENET_CLASSES = 1000
IMAGENET_SIZE = (224, 224)
FORMATS = ('table', 'markdown', 'json')


@dataclass(frozen=True)
class Row:
    """The counts of one part of a network in one form.

    Attributes:
        network: Name of the network.
        part: ``backbone``; ``segmentor``, from the image to the logits of its decode
            head; or ``classifier``, of ImageNet's classes.
        form: ``training`` or ``fused``; ``single`` if there is nothing to fuse.
        size: Height and width of the image in pixels.
        counts: Counts for one image.
    """

    network: str
    part: str
    form: str
    size: tuple[int, int]
    counts: Counts


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
        cfg: From :func:`~mmseg_repvgg.analysis.networks.network_config`.
        size: Height and width of the image in pixels, each at least 1. The default is the
            window that the config slides over the image, else its training crop, else,
            for a backbone alone, 224x224.
        classifier: Whether to count the backbone with ImageNet's linear layer as well, as
            the paper's tables do.

    Raises:
        ConfigError: If the network cannot be built, or cannot take such an image.
    """
    size = size or _default_size(name, cfg)
    if min(size) < 1:
        raise ConfigError(
            f'the image must have at least 1x1 pixels, but got {size[0]}x{size[1]}'
        )
    shape = (1, cfg.model.backbone.get('in_channels', 3), *size)
    rows = []
    for part, model in _parts(cfg, classifier).items():
        forms = {'training': model, 'fused': deploy(model)}
        if is_deployed(model):
            forms = {'single': model}
        for form, net in forms.items():
            try:
                counts = count(net, shape)
            except (AssertionError, RuntimeError, ValueError) as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise ConfigError(
                    f'the {part} of {name} cannot take an image of {size[0]}x{size[1]}: '
                    f'{reason}'
                ) from error
            rows.append(Row(name, part, form, size, counts))
    return rows


def show(rows: Sequence[Row], form: str = 'table') -> str:
    """Format counts as text.

    Args:
        rows: From :func:`count_network`, of one network or several.
        form: One of :data:`FORMATS`. The tables are in units of 1e6 and 1e9; the JSON is
            a list of objects with whole numbers.
    """
    if form == 'json':
        return json.dumps([_as_dict(row) for row in rows], indent=2)
    table = PrettyTable(
        [
            'network',
            'part',
            'form',
            'size',
            'params (M)',
            'MACs (G)',
            'Winograd MULs (G)',
            'activations (M)',
        ],
        align='r',
    )
    for name in table.field_names[:3]:
        table.align[name] = 'l'
    for row in rows:
        height, width = row.size
        found = row.counts
        table.add_row(
            [
                *(row.network, row.part, row.form, f'{height}x{width}'),
                f'{found.params / 1e6:.2f}',
                f'{found.macs / 1e9:.2f}',
                f'{found.winograd_muls / 1e9:.2f}',
                f'{found.activations / 1e6:.2f}',
            ]
        )
    if form == 'markdown':
        table.set_style(TableStyle.MARKDOWN)
    return table.get_string()


class Classifier(nn.Module):
    """A backbone with the linear classifier of ImageNet weights.

    Args:
        backbone: Returns feature maps, the last of which is averaged and classified.
        channels: Channels of the last map.
    """

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.linear = nn.Linear(channels, IMAGENET_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 1000)."""
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


def _parts(cfg: Config, classifier: bool) -> dict[str, nn.Module]:
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
            image = torch.empty(1, cfg.model.backbone.get('in_channels', 3), 64, 64)
            parts['classifier'] = Classifier(backbone, backbone(image)[-1].shape[1])
    return parts


def _build(cfg: dict[str, Any]) -> Any:
    """Build on the meta device, which allocates no weights."""
    try:
        with torch.device('meta'):
            return MODELS.build(cfg)
    except RuntimeError:
        # Some networks, such as Swin, compute with values while they are built.
        return MODELS.build(cfg).to('meta')


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
