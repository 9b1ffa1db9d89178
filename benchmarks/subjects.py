"""What is measured: a network from a config or an architecture's name, ready to run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_repvgg.analysis.networks import network_config
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.export.backends import open_backend
from mmseg_repvgg.export.extras import require
from mmseg_repvgg.export.formats import write_onnx
from mmseg_repvgg.export.graph import SegmentorGraph
from mmseg_repvgg.export.metadata import Metadata
from mmseg_repvgg.export.signal_stack import keep_signal_stack
from mmseg_repvgg.reparam import deploy


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all that is compared has in common.

    Attributes:
        shape: Of the input, (batch, channels, height, width).
        threads: How many compute.
        device: Of torch.
        backbone_only: Whether the backbone alone is run, to its last feature map; or else
            the whole segmentor, from the normalised image to logits of its size.
        folder: Where files are made that are needed on the way.
    """

    shape: tuple[int, int, int, int]
    threads: int
    device: str
    backbone_only: bool
    folder: str


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a network comes from.

    Attributes:
        name: Under which it is reported.
        given: File of the config, or an architecture such as ``B0`` or ``B2-fast``.
        options: Changes of the config, by dotted key.
        checkpoint: File of weights; without, they are random.
        trust: Unpickle whatever that file holds.
        int8: An exported int8 file of it.
    """

    name: str
    given: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: str | None = None
    trust: bool = False
    int8: str | None = None


class Subject:
    """A network, in the forms that runtimes start from, each made when it is asked for.

    Args:
        source: Where it comes from.
        setup: What it is run with.

    Raises:
        ConfigError: If there is no such network.
    """

    def __init__(self, source: Source, setup: Setup) -> None:
        self.source, self.setup = source, setup
        self.cfg = network_config(source.given, source.options)
        if not setup.backbone_only and 'decode_head' not in self.cfg.model:
            raise ConfigError(
                f'{source.given} is a backbone: give --backbone-only, or a config file'
            )

    @property
    def channels(self) -> int:
        """Of the image."""
        return self.cfg.model.backbone.get('in_channels', 3)

    @cached_property
    def input(self) -> Tensor:
        """The same numbers for every network and form, float32."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.setup.shape, generator=generator)
        return x.to(self.setup.device)

    @cached_property
    def trained(self) -> nn.Module:
        """As it is trained, in eval mode: many branches, and norms of their own."""
        built: Any = self._segmentor() if self.source.checkpoint else self._random()
        if not self.setup.backbone_only:
            # Trained with, never run again.
            built.auxiliary_head = None
            return _Whole(built).to(self.setup.device)
        return _Last(getattr(built, 'backbone', built)).to(self.setup.device)

    @cached_property
    def fused(self) -> nn.Module:
        """A conv a layer: branches fused, and then every norm behind a conv folded in.

        The second is for the heads and for networks that have nothing else to fuse: to
        compare with their norms left would flatter RepVGG.
        """
        model = fuse_conv_bn(deploy(self.trained))
        return model.requires_grad_(False)

    @cached_property
    def graph(self) -> nn.Module:
        """The fused form as it is exported, with pooling that every compiler can take."""
        network: Any = self.fused
        if not isinstance(network, _Whole):
            return network
        return SegmentorGraph(network.model, exporting_facts(self.setup.shape)).eval()

    def backbone(self) -> Subject:
        """The same segmentor's backbone alone, of the same weights."""
        part = Subject(
            dataclasses.replace(self.source, name=f'{self.source.name}-backbone'),
            dataclasses.replace(self.setup, backbone_only=True),
        )
        whole: Any = self.fused
        part.fused = _Last(whole.model.backbone)
        return part

    @property
    def onnx(self) -> Path:
        """An ONNX file of the graph, in the folder of the setup; written once."""
        path = Path(self.setup.folder) / f'{self.source.name}.onnx'
        if not path.is_file():
            network: Any = self.graph
            write_onnx(network, path, exporting_facts(self.setup.shape))
        return path

    @property
    @keep_signal_stack()
    def int8(self) -> Path:
        """An int8 file for OpenVINO: the given, or one calibrated on random numbers."""
        if self.source.int8 is not None:
            return Path(self.source.int8)
        path = Path(self.setup.folder) / f'{self.source.name}.int8.xml'
        if not path.is_file():
            openvino, nncf = require('openvino'), require('nncf', 'quantize')
            logging.getLogger('nncf').setLevel(logging.ERROR)
            data = nncf.Dataset([self.input.numpy()])
            model = openvino.Core().read_model(self.onnx)
            openvino.save_model(nncf.quantize(model, data), path)
        return path

    def _segmentor(self) -> nn.Module:
        source = self.source
        if 'decode_head' not in self.cfg.model:
            raise ConfigError(f'{source.given}: a checkpoint needs a config file')
        assert source.checkpoint is not None
        return load_model(self.cfg, source.checkpoint, trust=source.trust)

    def _random(self) -> nn.Module:
        init_default_scope(self.cfg.get('default_scope', 'mmseg'))
        part = 'backbone' if self.setup.backbone_only else None
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            model = MODELS.build(self.cfg.model[part] if part else self.cfg.model)
        model = revert_sync_batchnorm(model)
        # Not of its result: that of ResNet is None.
        model.eval()
        return model


def check_int8(file: str, setup: Setup) -> None:
    """See to it that a file does the work that all the others do.

    Raises:
        ConfigError: If it does not, is not int8, or cannot be opened.
        ExtraError: If OpenVINO is not installed.
    """
    facts = open_backend(file).metadata
    if facts.output != 'logits' or facts.normalize or setup.backbone_only:
        raise ConfigError(
            f'{file} does other work than the rest: it must be of the whole segmentor, '
            'made with --output logits and without --normalize'
        )
    if facts.quantized is None:
        raise ConfigError(f'{file} is not int8: make one with tools/quantize.py')
    wanted = setup.shape
    if any(side not in (None, want) for side, want in zip(facts.shape, wanted)):
        raise ConfigError(
            f'{file} takes images of {_text(facts.shape)}, and the rest is measured at '
            f'{_text(wanted)}: give another --batch or --size, or make the file for that'
        )


class _Whole(nn.Module):
    """A segmentor as it predicts an image that is taken whole: up to its logits."""

    def __init__(self, model: BaseSegmentor) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
        metas: Any = [meta] * len(x)  # mmseg annotates data samples
        return self.model.encode_decode(x, metas)


class _Last(nn.Module):
    """A backbone up to its last feature map."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[-1]


def exporting_facts(shape: tuple[int, int, int, int]) -> Metadata:
    """What the exporter has to know of a file that nobody else will read.

    Args:
        shape: Of the input.
    """
    return Metadata(
        output='logits',
        shape=shape,
        normalize=False,
        channels='',
        mean=None,
        std=None,
        network_channels='',
        align_corners=False,
        out_channels=0,
        threshold=None,
        classes=[],
        palette=[],
        backbone='',
        arch=None,
        dilation=None,
    )


def _text(shape: Sequence[int | None]) -> str:
    return 'x'.join('any' if side is None else str(side) for side in shape)
