"""Recomputation of feature maps in the backward pass, which saves memory."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class RecomputedConv(nn.Sequential):
    """A convolution and the layers behind it; backward recomputes the convolution.

    Its output, which a norm would keep for the backward pass, is freed. Only its input is
    kept, as for any convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H', W')."""
        if not torch.is_grad_enabled():
            return super().forward(x)
        conv: Any
        conv, *others = self
        y = conv(x)
        dtype, shape, address = y.dtype, y.shape, y.data_ptr()

        def pack(kept: Tensor) -> Tensor | None:
            return None if (kept.shape, kept.data_ptr()) == (shape, address) else kept

        @torch.no_grad()
        def unpack(kept: Tensor | None) -> Tensor:
            if kept is not None:
                return kept
            # Autocast, which may have chosen the dtype, has ended.
            bias = None if conv.bias is None else conv.bias.to(dtype)
            return conv._conv_forward(x.to(dtype), conv.weight.to(dtype), bias)

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            for layer in others:
                y = layer(y)
        return y


def run_recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block whose feature maps are recomputed in the backward pass."""
    return checkpoint(
        block,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _running_stats_kept(block)),
    )


@contextmanager
def _running_stats_kept(block: nn.Module) -> Iterator[None]:
    """Make a forward pass update copies of the running statistics.

    The first forward pass has updated them with this batch already.
    """
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, kept):
        norm._buffers.update({k: b.clone() for k, b in buffers.items() if b is not None})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept):
            norm._buffers.update(buffers)
