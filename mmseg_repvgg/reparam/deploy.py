"""Deploy a model: the only walk over a module tree that fuses."""

import warnings
from collections.abc import Callable
from copy import copy
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..winograd.conv import WinogradConv2d, WinogradConvReLU2d
from ..winograd.engines import ENGINES, Conv, check_engine
from .blocks import RepConv, RepVGGBlock, hidden_methods
from .phases import choose_phases

_Engine = Callable[[Conv], Conv]


# Parameters made in inference mode could never be loaded into or take part in autograd.
@torch.inference_mode(False)
@torch.no_grad()
def deploy(
    model: nn.Module, engine: str = 'torch', precision: str = 'highest'
) -> nn.Module:
    """Return a fused copy of a model, in evaluation mode.

    Every :class:`RepConv` in the tree becomes the equivalent plain convolution; every
    other module keeps its type. The copy has its own module objects and shares the memory
    of all tensors that do not change. ``model`` is not changed and can be trained
    further; deploy it again afterwards. Batch norms are fused with their running
    statistics, also when ``model`` is in training mode. No random numbers are drawn.
    Deploying a deployed model changes nothing.

    ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile`` wrappers are
    removed. Attributes and hooks that refer to modules of ``model``, or to their methods,
    refer to the copies. A function that replaces a method on an instance, such as a
    compiled ``extract_feat`` or a timer, calls ``model``: the copy uses the method of the
    class instead. All other objects are shared.

    A ``RepConv`` is only fused if its branches are plain convs, batch norms and scales.
    One with a ReLU in a branch equals no convolution: it stays as it is, with a warning.
    Forward hooks on a ``RepConv`` move to its conv. A forward hook inside it is called
    once, on a map of ones, to see that it changes nothing; the copy does not have it.

    On a CPU, Winograd's algorithm computes a 3x3 conv of stride 1 two to three times as
    fast as PyTorch. The engines that use it replace such convs by
    :class:`WinogradConv2d`, also in heads and in other backbones. Its output differs by
    about a millionth, and its state dict is that of the plain conv.

    Args:
        model: A backbone, a segmentor, or a wrapper of one (TTA, DDP).
        engine: How convs are computed: ``'torch'``, by ``nn.Conv2d``; ``'winograd'``, by
            Winograd's algorithm where the rule of
            :func:`~mmseg_repvgg.winograd.engines.pays` holds; ``'phases'``, by
            ``nn.Conv2d``, but without dilation, see
            :class:`~mmseg_repvgg.reparam.phases.PhasedSequential`; ``'auto'``, by the one
            that is faster in a trial on this machine, which takes some seconds.
        precision: How Winograd's products are computed on a CPU with matrix units (AMX):
            ``'highest'``, in float32; ``'high'``, with two bfloat16 numbers for each
            float32 number; ``'medium'``, in bfloat16. Any other CPU computes them in
            float32, for ``'high'`` and ``'medium'`` by F(6x6, 3x3) where it is faster,
            which is less exact. Only the engines with Winograd's algorithm take
            another than ``'highest'``.

    Returns:
        The copy. None of its parameters requires gradients.

    Raises:
        ConfigError: If ``engine`` or ``precision`` is unknown, if they do not fit, or if
            ``engine`` is ``'winograd'`` and the model is not on a CPU.
        ValueError: If a ``RepConv`` contains other modules than plain convs, batch norms
            with running statistics and scales, or if hooks or replaced methods change
            what it computes (pruning, the older weight norm, adapters).
    """
    check_engine(engine, precision)
    model = _unwrap(model)

    def computed_by(conv: Conv) -> Conv:
        return ENGINES[engine](conv, precision)

    copied: nn.Module = _Copier(model, computed_by)(model)
    _fuse_relus(copied, computed_by)
    choose_phases(copied, engine)
    if left := sum(isinstance(module, RepConv) for module in copied.modules()):
        warnings.warn(
            f'{left} blocks stay in the training form, since a ReLU in a branch cannot '
            'be fused',
            stacklevel=2,
        )
    return copied


def is_deployed(model: nn.Module) -> bool:
    """Return whether a model contains no :class:`RepConv`."""
    return not any(isinstance(module, RepConv) for module in model.modules())


def _unwrap(model: nn.Module) -> nn.Module:
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif isinstance(original := getattr(model, '_orig_mod', None), nn.Module):
            model = original
        else:
            return model


class _Copier:
    """Copy a model and whatever in its attributes refers to its modules.

    ``copy.deepcopy`` would also copy the data sets that attributes refer to and the
    objects whose methods are hooks, and it fails for locks and process groups.
    """

    def __init__(self, model: nn.Module, engine: _Engine) -> None:
        self.engine = engine
        self.inside = {id(module) for module in model.modules()}
        # By id, so that tied modules and parameters stay tied.
        self.copies: dict[int, Any] = {}
        # An id is unique only while the object is alive.
        self.alive: list[nn.Module] = []

    def __call__(self, value: Any) -> Any:
        """Return the copy of a value, or the value itself if it is shared."""
        if isinstance(value, nn.Module):
            value = _unwrap(value)
        if id(value) in self.copies:
            return self.copies[id(value)]
        if isinstance(value, nn.Module) and id(value) in self.inside:
            return self._deployed(value)
        if isinstance(value, nn.Parameter):
            # The memory is shared, but half() on the copy does not change the model.
            alias = nn.Parameter(value.detach(), requires_grad=False)
            return self.copies.setdefault(id(value), alias)
        if _is_method(value):
            return MethodType(value.__func__, self(value.__self__))
        if type(value) is partial:
            arguments = map(self, value.args)
            return partial(self(value.func), *arguments, **self(value.keywords))
        if isinstance(value, dict) or type(value) is list:
            twin = self.copies[id(value)] = copy(value)
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, part in items:
                twin[key] = self(part)
            return twin
        if type(value) in (tuple, set):
            return type(value)(map(self, value))
        return value

    def _deployed(self, module: nn.Module) -> nn.Module:
        successor = module
        if isinstance(successor, RepConv) and successor.is_linear:
            successor = _keep_hooks(successor.fuse(), successor)
        if isinstance(successor, (nn.Conv2d, WinogradConv2d)):
            successor = _keep_hooks(self.engine(successor), successor)
        self.alive.append(successor)
        twin = self.copies[id(module)] = object.__new__(type(successor))
        dropped = {'_compiled_call_impl', *hidden_methods(successor)}
        for name, value in vars(successor).items():
            if name not in dropped or _can_rebind(value):
                vars(twin)[name] = self(value)
        vars(twin)['training'] = False
        return twin


def _is_method(value: Any) -> bool:
    return isinstance(value, MethodType) and isinstance(value.__self__, nn.Module)


def _can_rebind(value: Any) -> bool:
    """Return whether a method of a module can be bound to its copy.

    The closure of any other function may hold the original method. ``__class__`` is in
    the closure of a method that calls ``super()``.
    """
    return _is_method(value) and value.__code__.co_freevars in ((), ('__class__',))


def _keep_hooks(successor: nn.Module, module: nn.Module) -> nn.Module:
    """Add the forward hooks of a module to its successor."""
    if successor is not module:
        for name, hooks in vars(module).items():
            if name.startswith(('_forward_hooks', '_forward_pre_hooks')):
                getattr(successor, name).update(hooks)
    return successor


def _fuse_relus(model: nn.Module, engine: _Engine) -> None:
    """Move the ReLU of blocks into their Winograd convs."""
    for block in model.modules():
        # A subclass or a replaced forward may use the conv in another way.
        if type(block) is not RepVGGBlock or 'forward' in vars(block):
            continue
        if type(block.conv) is WinogradConvReLU2d:
            # Undo what an earlier deploy did.
            block.conv, block.act = engine(WinogradConv2d(block.conv)), nn.ReLU(True)
        if (
            type(block.conv) is WinogradConv2d
            and type(block.se) is nn.Identity
            and type(block.act) is nn.ReLU
            and not any(
                child._forward_hooks or child._forward_pre_hooks
                for child in block.children()
            )
        ):
            with_relu = WinogradConvReLU2d(block.conv, block.conv.precision)
            block.conv, block.act = with_relu, nn.Identity()
