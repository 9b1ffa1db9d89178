"""RepOptimizer: train plain convs as if each had branches with constant scales.

Ding et al., "Re-parameterizing Your Optimizers rather than Architectures", ICLR 2023,
https://arxiv.org/abs/2205.15242.
"""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from ..checkpoints.files import read_checkpoint
from ..checkpoints.loading import naming_checkpoint
from ..checkpoints.state_dict import extract_state_dict
from ..errors import ConfigError
from ..models import RepVGG
from ..reparam import RepConv
from ..reparam.algebra import ConvParams, add_parallel, identity_kernel
from ..reparam.branches import as_conv

Multipliers = dict[nn.Parameter, Tensor]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class RepOptimizerConstructor(DefaultOptimWrapperConstructor):
    """Constructor of an optimizer that trains ``block='plain'`` as ``block='csla'``.

    A csla block is a 3x3 and a 1x1 conv, each times a constant scale per channel, and an
    identity times a trained one, with a batch norm after the sum (section 3.2). One 3x3
    conv is trained exactly like it if it begins as their sum (rule of initialization) and
    if each tap's gradient is multiplied by the sum of the squared scales of the branches
    that have this tap (rule of iteration). For AdamW, whose step does not depend on the
    size of the gradient, the step is multiplied by the sum of the scales instead.

    The rule of initialization is left out where the backbone's ``init_cfg`` loads a
    checkpoint.

    Args:
        optim_wrapper_cfg: Config of an optimizer wrapper with SGD or AdamW.
        paramwise_cfg: That of mmengine's default constructor, and in addition ``scales``:
            a checkpoint that was trained with ``block='csla'``, whose scales are trained
            (hyper-search, section 3.3). By default, those that such a training begins
            with: sqrt(2 / l) in block l of a stage, 1 in the first.

    Raises:
        ConfigError: If the model has no RepVGG with ``block='plain'``, or for another
            optimizer.
        CheckpointError: If the file of ``scales`` does not fit the backbone.
    """

    def __init__(
        self,
        optim_wrapper_cfg: dict[str, Any],
        paramwise_cfg: dict[str, Any] | None = None,
    ) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        self.scales = paramwise_cfg.pop('scales', None)
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def __call__(self, model: nn.Module) -> Any:
        """Initialize the model by the rule, and build its optimizer wrapper."""
        wrapper: Any = super().__call__(model)
        kind = type(wrapper.optimizer)
        if kind not in (SGD, AdamW):
            raise ConfigError(
                'RepOptimizerConstructor needs the optimizer SGD or AdamW, but got '
                f'{kind.__name__}'
            )
        backbones = [m for m in model.modules() if isinstance(m, RepVGG)]
        blocks = [backbone.block for backbone in backbones]
        if not blocks or set(blocks) != {'plain'}:
            raise ConfigError(
                "RepOptimizerConstructor trains a RepVGG with block='plain', but the "
                f'model has {blocks or "no RepVGG"}'
            )
        # The Runner initializes after it has built the optimizer, but only once.
        inner: Any = getattr(model, 'module', model)
        inner.init_weights()
        multipliers: Multipliers = {}
        for backbone in backbones:
            pretrained = 'checkpoint' in (backbone.init_cfg or {})
            for conv, block in self._pairs(backbone):
                if not pretrained:
                    _initialize(conv, block)
                multipliers[conv.weight] = multiplier(block, 2 if kind is SGD else 1)
        rule = multiply_gradients if kind is SGD else multiply_steps
        rule(wrapper.optimizer, multipliers)
        print_log(
            f'RepOptimizer: {len(multipliers)} kernels, with scales '
            f'{f"of {self.scales}" if self.scales else "by depth"}',
            'current',
        )
        return wrapper

    def _pairs(self, backbone: RepVGG) -> Iterator[tuple[Any, RepConv]]:
        """Yield the conv of each plain block, with the csla block that it stands for."""
        equal = backbone.rebuild(block='csla')
        if self.scales:
            with naming_checkpoint(self.scales):
                equal.load_state_dict(extract_state_dict(read_checkpoint(self.scales)))
        for name, block in equal.named_modules():
            # Shortcuts have no 3x3 branch.
            if isinstance(block, RepConv) and 'branch_3x3' in block.branches:
                plain: Any = backbone.get_submodule(name)
                yield plain.branch_3x3.conv, block.to(plain.branch_3x3.conv.weight)


@torch.no_grad()
def _initialize(conv: nn.Conv2d, block: RepConv) -> None:
    """Set the kernel of a plain conv to the sum of the branches, its own included."""
    branches: Any = block.branches
    three, one = branches['branch_3x3'].conv, branches['branch_1x1'].conv
    three.weight.copy_(conv.weight)
    nn.init.kaiming_normal_(one.weight, mode='fan_out', nonlinearity='relu')
    convs = (as_conv(name, branch, conv) for name, branch in branches.items())
    conv.weight.copy_(add_parallel(convs).kernel)


@torch.no_grad()
def multiplier(block: RepConv, power: int) -> Tensor:
    """Return the sum of the branches' scales, to a power, at each tap of a csla block.

    Returns:
        Shape (out_channels, in_channels / groups, 3, 3), in the dtype of the block.
    """
    branches: Any = block.branches
    conv = branches['branch_3x3'].conv
    kernels = []
    for name, branch in branches.items():
        if name == 'branch_identity':
            # Its scale is what is trained, so it is no factor.
            kernel = identity_kernel(conv.in_channels, conv.groups).to(conv.weight)
        else:
            factor = branch.scale.weight.view(-1, 1, 1, 1) ** power
            kernel = factor * torch.ones_like(branch.conv.weight)
        kernels.append(kernel)
    bias = conv.weight.new_zeros(conv.out_channels)
    return add_parallel(ConvParams(k, bias) for k in kernels).kernel.to(conv.weight)


def multiply_gradients(optimizer: Optimizer, multipliers: Multipliers) -> None:
    """Multiply the gradients of parameters before each step."""

    def before(*_: Any) -> None:
        for parameter, factor in multipliers.items():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    optimizer.register_step_pre_hook(before)


def multiply_steps(optimizer: Optimizer, multipliers: Multipliers) -> None:
    """Multiply the steps that parameters make, without their decoupled weight decay."""
    start: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def before(*_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in multipliers.keys() & set(group['params']):
                if parameter.grad is not None:
                    decay = 1 - group['lr'] * group['weight_decay']
                    start[parameter] = parameter * decay

    @torch.no_grad()
    def after(*_: Any) -> None:
        for parameter, decayed in start.items():
            step = parameter - decayed
            parameter.copy_(decayed + step * multipliers[parameter])
        start.clear()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
