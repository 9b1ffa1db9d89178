"""``deploy``: a fused copy of any model, by the only walk over a module tree."""

from __future__ import annotations

from collections import Counter
from copy import copy
from functools import partial
from operator import is_not
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..errors import ConfigError
from .blocks import RepConv, RepVGGBlock
from .engines import ENGINES, Engine
from .winograd import WinogradConv2d


# Or the copy's numbers could never again be loaded into, nor have a gradient behind them.
@torch.inference_mode(False)
@torch.no_grad()
def deploy(model: nn.Module, engine: str = 'torch') -> nn.Module:
    """Return a fused, evaluation-mode copy of a model.

    Every :class:`RepConv` in the tree becomes the plain convolution it stands for;
    everything else keeps its type. Modules are new objects, tensors that did not change
    share their memory with ``model``, and ``model`` itself is untouched and goes on
    training: take a new copy after it has learned on. Fused numbers come from the
    running statistics, whatever mode ``model`` is in. Nothing is drawn from any random
    generator, and deploying twice is the same as once.

    ``DataParallel`` and ``DistributedDataParallel`` wrappers, and the one that
    ``torch.compile`` puts around a module, are taken off: they belong to training.

    On a CPU, Winograd's algorithm computes a 3x3 conv of stride 1 two to three times as
    fast as PyTorch. The engines that use it put a :class:`WinogradConv2d` in the place of
    such convs, those of heads and of other backbones too. It computes the same to about a
    millionth, and its state dict is that of the plain conv.

    Args:
        model: A backbone, a segmentor, or a wrapper of one (TTA, DDP).
        engine: What computes the convs: ``'torch'``, as ``nn.Conv2d``; ``'winograd'``,
            where the rule of :func:`~mmseg_repvgg.reparam.engines.pays` says so;
            ``'auto'``, where a trial on this machine, of some seconds, finds it faster.

    Returns:
        The copy; none of its parameters asks for gradients.

    Raises:
        ValueError: If ``engine`` is unknown, a norm to be folded keeps no running
            statistics, something (pruning, the older weight norm) computes a weight
            before each forward, or ``'winograd'`` is asked of a model that is not on a
            CPU.
    """
    if engine not in ENGINES:
        raise ConfigError(f'engine must be one of {tuple(ENGINES)}, but got {engine!r}')
    done: dict[int, Any] = {}
    copied = _deployed(_unwrap(model), ENGINES[engine], done)
    for module in copied.modules():
        _refer_to_copies(module, done)
    _place_relus(copied, ENGINES[engine])
    return copied


def is_deployed(model: nn.Module) -> bool:
    """Tell whether nothing in the model is left to fuse."""
    return not any(isinstance(module, RepConv) for module in model.modules())


def _unwrap(model: nn.Module) -> nn.Module:
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif isinstance(original := getattr(model, '_orig_mod', None), nn.Module):
            model = original
        else:
            return model


def _deployed(module: nn.Module, engine: Engine, done: dict[int, Any]) -> nn.Module:
    """Copy a module tree, fusing on the way; ``done`` maps what was met to its copy.

    The memory of ``done`` keeps what is shared within the model (a module used twice,
    tied weights) shared within the copy.
    """
    if id(module) in done:
        return done[id(module)]
    conv = module
    if isinstance(conv, RepConv):
        conv = _listened_to(conv.fuse(), conv)
    if isinstance(conv, nn.Conv2d):
        conv = _listened_to(engine(conv), conv)
    if conv is not module:
        return done.setdefault(id(module), conv)
    twin = object.__new__(type(module))
    done[id(module)] = twin
    state = twin.__dict__
    # Containers (hooks, buffers) are copied, so that adding to one adds to one only.
    for name, value in module.__dict__.items():
        state[name] = copy(value) if isinstance(value, (dict, set)) else value
    state['training'] = False
    # What torch compiled in place, or was wrapped around forward, calls the original.
    state.pop('_compiled_call_impl', None)
    if not isinstance(state.get('forward'), MethodType):
        state.pop('forward', None)
    state['_parameters'] = {
        name: _alias(parameter, done) for name, parameter in module._parameters.items()
    }
    state['_modules'] = {
        name: None if child is None else _deployed(_unwrap(child), engine, done)
        for name, child in module._modules.items()
    }
    return twin


def _listened_to(successor: nn.Module, module: nn.Module) -> nn.Module:
    """Let whoever listens to a module hear what takes its place."""
    if successor is not module:
        for name, hooks in vars(module).items():
            if name.startswith(('_forward_hooks', '_forward_pre_hooks')):
                getattr(successor, name).update(hooks)
    return successor


def _refer_to_copies(module: nn.Module, done: dict[int, Any]) -> None:
    """Have attributes mean the copies of modules and of their methods.

    A list of stages beside the registered ones, a method kept under another name, or one
    that listens as a hook, would go on calling the original.
    """
    within: set[int] = set()

    def copied(value: Any) -> Any:
        if isinstance(value, nn.Module):
            return done.get(id(_unwrap(value)), value)
        if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            owner = copied(value.__self__)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        if type(value) is partial:
            parts = [value.func, value.args, value.keywords]
        elif type(value) in (list, tuple):
            parts = list(value)
        elif isinstance(value, dict):
            parts = list(value.values())
        else:
            return value
        if id(value) in within:  # It holds itself.
            return value
        within.add(id(value))
        new = [copied(part) for part in parts]
        within.remove(id(value))
        return _made_of(value, new) if any(map(is_not, new, parts)) else value

    state = vars(module)
    for name, value in list(state.items()):
        state[name] = copied(value)


def _made_of(container: Any, parts: list[Any]) -> Any:
    """A container like another, of other parts."""
    if isinstance(container, dict):
        twin = copy(container)
        twin.update(zip(container, parts))
        return twin
    if isinstance(container, partial):
        function, arguments, keywords = parts
        return partial(function, *arguments, **keywords)
    return type(container)(parts)


def _place_relus(model: nn.Module, engine: Engine) -> None:
    """Let the convs of blocks do the ReLU in passing, where they can."""
    parents = Counter(
        id(child) for module in model.modules() for child in module._modules.values()
    )
    for block in model.modules():
        if not isinstance(block, RepVGGBlock):
            continue
        if isinstance(block.conv, WinogradConv2d) and block.conv.relu:
            # Of an earlier deploy.
            block.conv.relu = False
            block.conv, block.act = engine(block.conv), nn.ReLU(inplace=True)
        if (
            isinstance(block.conv, WinogradConv2d)
            and parents[id(block.conv)] == 1
            and type(block.se) is nn.Identity
            and type(block.act) is nn.ReLU
            and not (block.act._forward_hooks or block.act._forward_pre_hooks)
        ):
            block.conv.relu, block.act = True, nn.Identity()


def _alias(parameter: nn.Parameter | None, done: dict[int, Any]) -> nn.Parameter | None:
    """Give a parameter a second object over the same memory.

    ``copy.half()`` or ``copy.cuda()`` then leaves the original's parameter alone.
    """
    if parameter is None:
        return None
    if id(parameter) not in done:
        done[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return done[id(parameter)]
