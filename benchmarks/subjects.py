"""Networks to measure, from a config or the name of an architecture."""

from __future__ import annotations

import dataclasses
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

from mmseg_repvgg import __version__
from mmseg_repvgg.engine.config import network_config
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.export.formats import save_openvino, write_onnx
from mmseg_repvgg.export.graph import SegmentorGraph
from mmseg_repvgg.export.int8_graph import quantize_graph
from mmseg_repvgg.reparam import deploy
from mmseg_repvgg.reparam.phases import PhasedSequential
from repvgg_runtime.backends import open_backend, shape_text
from repvgg_runtime.metadata import Metadata


@dataclasses.dataclass(frozen=True)
class Setup:
    """Input, threads and device that all measured networks share.

    Attributes:
        shape: Shape of the input, (batch, channels, height, width).
        threads: Number of threads.
        device: Device of torch.
        backbone_only: Whether to run the backbone alone, to its last feature map, instead
            of the segmentor, from the normalised image to logits of its size.
        folder: Folder for temporary files.
    """

    shape: tuple[int, int, int, int]
    threads: int
    device: str
    backbone_only: bool
    folder: str


@dataclasses.dataclass(frozen=True)
class Source:
    """The config and the files of a network.

    Attributes:
        name: Name in the report.
        given: Config file, or an architecture such as ``B0`` or ``B2-fast``.
        options: Changes of the config, by dotted key.
        checkpoint: Checkpoint file; without one, weights are random.
        trust: Whether to unpickle anything in that file.
        int8: An exported int8 file.
    """

    name: str
    given: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: str | None = None
    trust: bool = False
    int8: str | None = None


class Subject:
    """A network with the models and files that runtimes start from, made on demand.

    Args:
        source: Config and files.
        setup: Input, threads and device.

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
        """Number of channels of the image."""
        return self.cfg.model.backbone.get('in_channels', 3)

    @cached_property
    def input(self) -> Tensor:
        """Random input, the same for every network and form, float32."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.setup.shape, generator=generator)
        return x.to(self.setup.device)

    @cached_property
    def trained(self) -> nn.Module:
        """The training form in eval mode."""
        built: Any = self._segmentor() if self.source.checkpoint else self._random()
        if not self.setup.backbone_only:
            # Inference does not run it.
            built.auxiliary_head = None
            return _Whole(built).to(self.setup.device)
        return _Last(getattr(built, 'backbone', built)).to(self.setup.device)

    @cached_property
    def fused(self) -> nn.Module:
        """The fused form, with every norm folded into the conv before it.

        Norms of heads and of other backbones are folded as well, since a comparison with
        unfolded norms would favour RepVGG.
        """
        model = fuse_conv_bn(deploy(self.trained))
        return model.requires_grad_(False)

    @cached_property
    def graph(self) -> nn.Module:
        """The fused form as exported, with pooling that every compiler supports."""
        network: Any = self.fused
        if not isinstance(network, _Whole):
            return network
        phases = any(isinstance(m, PhasedSequential) for m in network.modules())
        facts = dataclasses.replace(
            exporting_facts(self.setup.shape), engine='phases' if phases else 'torch'
        )
        return SegmentorGraph(network.model, facts).eval()

    def backbone(self) -> Subject:
        """Return the backbone of this segmentor, with the same weights."""
        part = Subject(
            dataclasses.replace(self.source, name=f'{self.source.name}-backbone'),
            dataclasses.replace(self.setup, backbone_only=True),
        )
        whole: Any = self.fused
        part.fused = _Last(whole.model.backbone)
        return part

    def on_phases(self) -> Subject:
        """Return this network with its dilated blocks computed on phases."""
        # The given int8 file is another network's.
        source = dataclasses.replace(
            self.source, name=f'{self.source.name}-phases', int8=None
        )
        phased = Subject(source, self.setup)
        phased.fused = deploy(self.fused, 'phases')
        return phased

    @property
    def onnx(self) -> Path:
        """ONNX file of the graph, written once to the folder of the setup."""
        path = Path(self.setup.folder) / f'{self.source.name}.onnx'
        if not path.is_file():
            network: Any = self.graph
            write_onnx(network, path, exporting_facts(self.setup.shape))
        return path

    @property
    def int8(self) -> Path:
        """int8 file for OpenVINO: the given one, or one calibrated on random numbers."""
        if self.source.int8 is not None:
            return Path(self.source.int8)
        path = Path(self.setup.folder) / f'{self.source.name}.int8.xml'
        if not path.is_file():
            images = [self.input.numpy()]
            graph, _, _ = quantize_graph(self.onnx, images, 'nncf')
            save_openvino(graph, path, exporting_facts(self.setup.shape))
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
        # ResNet's eval() returns None.
        model.eval()
        return model


def check_int8(file: str, setup: Setup) -> None:
    """Check that an int8 file is comparable with the other forms.

    Raises:
        ConfigError: If it computes something else, is not int8, or cannot be opened.
        ExtraError: If OpenVINO is not installed.
    """
    facts = open_backend(file).metadata
    if facts.output != 'logits' or facts.normalize or setup.backbone_only:
        raise ConfigError(
            f'{file} is not comparable with the other forms: it must be of the whole '
            'segmentor, made with --output logits and without --normalize'
        )
    if facts.quantized is None:
        raise ConfigError(f'{file} is not int8: make one with mmseg-repvgg quantize')
    wanted = setup.shape
    if any(side not in (None, want) for side, want in zip(facts.shape, wanted)):
        raise ConfigError(
            f'{file} takes images of {shape_text(facts.shape)}, but the other forms are '
            f'measured at {shape_text(wanted)}. Give another --batch, --size or file'
        )


class _Whole(nn.Module):
    """A segmentor from a whole image to its logits."""

    def __init__(self, model: BaseSegmentor) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
        metas: Any = [meta] * len(x)  # mmseg annotates data samples
        return self.model.encode_decode(x, metas)


class _Last(nn.Module):
    """A backbone that returns its last feature map."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[-1]


def exporting_facts(shape: tuple[int, int, int, int]) -> Metadata:
    """Return the metadata for a temporary file.

    Args:
        shape: Shape of the input.
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
        version=__version__,
    )
