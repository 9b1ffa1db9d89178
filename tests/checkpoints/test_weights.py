"""Only tensors that a network can compute with are weights."""

import pytest
import torch

from mmseg_repvgg.checkpoints.key_names import unwrap
from mmseg_repvgg.errors import CheckpointError

ONES = torch.ones(2, 2)


@pytest.mark.parametrize(
    ('tensor', 'says'),
    [
        (ONES.to_sparse(), 'is not a dense tensor'),
        (ONES.to_sparse_csr(), 'is not a dense tensor'),
        (torch.nested.nested_tensor([torch.ones(2)]), 'is not a dense tensor'),
        (ONES.to('meta'), 'is on the meta device'),
        (torch.quantize_per_tensor(ONES, 1, 0, torch.qint8), 'is quantized'),
        (ONES.to(torch.complex64), 'is of torch.complex64'),
        (ONES.to(torch.float8_e5m2), 'is of torch.float8_e5m2'),
        (torch.ones(1, 1).expand(2, 2), 'has more elements than its memory'),
        (ONES / 0, 'holds NaN or infinite numbers'),
        (ONES * float('nan'), 'holds NaN or infinite numbers'),
    ],
)
def test_tensor_that_is_no_weight_is_refused(tensor, says):
    with pytest.raises(CheckpointError, match=f"its 'state_dict' .* head.weight {says}"):
        unwrap({'state_dict': {'head.weight': tensor}})


@pytest.mark.parametrize(
    'tensor',
    [
        *(ONES.to(kind) for kind in (torch.float16, torch.bfloat16, torch.float64)),
        *[torch.tensor(3), torch.tensor([True]), torch.empty(0, 3)],
        *[ONES.t(), torch.arange(9.0)[::2], torch.nn.Parameter(ONES)],
    ],
)
def test_tensor_that_is_a_weight_or_a_buffer_is_taken(tensor):
    assert unwrap({'state_dict': {'head.weight': tensor}})['head.weight'] is tensor
