"""Channel pruning of a feature map, with the least change of what its readers compute.

The remaining channels compensate for the removed ones: x_removed is estimated as
A^T x_kept by least squares, from the second moments G = E[x x^T] of the channels, and A
is folded into the kernels of the linear layers that read the map. This is Optimal Brain
Surgeon (Hassibi and Stork, 1992) for whole channels, as in ZipLM (Kurtic et al., NeurIPS
2023, https://arxiv.org/abs/2302.04089).
"""

from typing import NamedTuple

import torch
from torch import Tensor

# Added to the diagonal of second moments, relative to its mean, for inverting them.
DAMPING = 1e-3


class Step(NamedTuple):
    """A step of a pruning.

    Attributes:
        channels: The channels that it removes.
        error: The mean squared error that it adds to the outputs of the layers that read
            the map, relative to their mean square.
    """

    channels: list[int]
    error: float


def removal_steps(
    moments: Tensor, coupling: Tensor, multiple: int, least: float
) -> list[Step]:
    """Order the channels of a map from those whose removal costs least.

    Each step removes the channels of least error and compensates for them. After it, the
    number of channels is a multiple of ``multiple``.

    Args:
        moments: Second moments of the n channels, shape (n, n), float64.
        coupling: Sum of W^T W over the layers that read the map, where W has a column for
            each channel, shape (n, n), float64.
        multiple: Channels of a step.
        least: Least share of the channels that is kept, from 0 to 1.
    """
    total = (moments * coupling).sum()
    inverse = torch.linalg.inv(damped(moments))
    left = torch.arange(len(moments))
    smallest = max(multiple, least * len(moments))
    steps: list[Step] = []
    while True:
        size = len(left) % multiple or multiple
        if len(left) - size < smallest:
            return steps
        order = (coupling.diagonal() / inverse.diagonal()).argsort()
        out, rest = order[:size], order[size:].sort().values
        precision = torch.linalg.inv(inverse[out][:, out])
        error = (precision * coupling[out][:, out]).sum() / total
        steps.append(Step(left[out].tolist(), float(error)))
        # W becomes W - W_out update^T, and the inverse that of the remaining channels.
        update = inverse[rest][:, out] @ precision
        cross = update @ coupling[out][:, rest]
        coupling = (
            coupling[rest][:, rest]
            - cross
            - cross.T
            + update @ coupling[out][:, out] @ update.T
        )
        inverse = inverse[rest][:, rest] - update @ inverse[out][:, rest]
        left = left[rest]


def estimate(moments: Tensor, removed: list[int], kept: list[int]) -> Tensor:
    """Return the least-squares estimate of the removed channels by those kept.

    Returns:
        A of x_removed = A^T x_kept, shape (kept, removed), float64.
    """
    moments = damped(moments)
    return torch.linalg.solve(moments[kept][:, kept], moments[kept][:, removed])


def damped(moments: Tensor) -> Tensor:
    """Make second moments safely invertible, also with channels that are always zero."""
    size = DAMPING * moments.diagonal().mean()
    return moments + size * torch.eye(len(moments), dtype=moments.dtype)
