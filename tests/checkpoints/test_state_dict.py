"""State dicts are taken out of checkpoints, and only usable tensors are accepted."""

import pytest
import torch

from mmseg_repvgg.checkpoints.state_dict import describe_mismatch, extract_state_dict
from mmseg_repvgg.errors import CheckpointError

ONES = torch.ones(2, 2)


@pytest.mark.parametrize(
    ('tensor', 'says'),
    [
        (ONES.to_sparse(), 'is not a dense tensor'),
        (ONES.to_sparse_csr(), 'is not a dense tensor'),
        (torch.nested.nested_tensor([torch.ones(2)]), 'is not a dense tensor'),
        (ONES.to(torch.complex64), 'is of torch.complex64'),
        (ONES.to(torch.float8_e5m2), 'is of torch.float8_e5m2'),
        (ONES / 0, 'holds NaN or infinite numbers'),
        (ONES * float('nan'), 'holds NaN or infinite numbers'),
    ],
)
def test_unusable_tensor_is_refused(tensor, says):
    with pytest.raises(CheckpointError, match=f"its 'state_dict' .* head.weight {says}"):
        extract_state_dict({'state_dict': {'head.weight': tensor}})


@pytest.mark.parametrize(
    'tensor',
    [
        *(ONES.to(kind) for kind in (torch.float16, torch.bfloat16, torch.float64)),
        *[torch.tensor(3), torch.tensor([True]), torch.empty(0, 3)],
        *[ONES.t(), torch.arange(9.0)[::2], torch.nn.Parameter(ONES)],
    ],
)
def test_weight_or_buffer_is_accepted(tensor):
    assert (
        extract_state_dict({'state_dict': {'head.weight': tensor}})['head.weight']
        is tensor
    )


class Holder:
    pass


@pytest.mark.parametrize(
    ('checkpoint', 'says'),
    [
        ([1, 2], 'it is a list, not a dict'),
        (None, 'it is a NoneType, not a dict'),
        ({}, 'it is empty'),
        ({'state_dict': {}}, "'state_dict' is empty"),
        ({'epoch': 3}, "'epoch' is a int, not a tensor"),
        ({'model': Holder()}, "'model' is a Holder, not a dict"),
        ({'state_dict': {'a': torch.ones(1), 'b': 'text'}}, "'b' is a str, not a tensor"),
        ({'state_dict': {3: torch.ones(1)}}, '3 is a Tensor'),
    ],
)
def test_checkpoint_without_state_dict_is_refused(checkpoint, says):
    with pytest.raises(CheckpointError, match=says):
        extract_state_dict(checkpoint)


def test_module_prefix_is_removed_only_if_every_key_has_it():
    some = {'module.a': torch.ones(1), 'b': torch.ones(1)}
    assert list(extract_state_dict(some)) == ['module.a', 'b']
    inside = {'module.a.module.b': torch.ones(1), 'module.c': torch.ones(1)}
    assert list(extract_state_dict(inside)) == ['a.module.b', 'c']
    # Without a wrapper's prefix, these are tensors of the model itself.
    assert list(extract_state_dict({'steps': torch.ones(1), 'a': torch.ones(1)})) == [
        'steps',
        'a',
    ]
    assert list(extract_state_dict({'model': torch.ones(1)})) == ['model']


def test_mismatch_names_keys_shapes_and_dtypes_on_both_sides():
    wanted = {'a': torch.ones(1), 'b': torch.ones(2), 'c': torch.ones(1)}
    counter = {'n.num_batches_tracked': torch.tensor(0)}
    assert describe_mismatch(wanted, {**wanted, **counter}) == ''
    found = {'b': torch.ones(3), 'c': torch.ones(1).long(), 'd': torch.ones(1)}
    assert describe_mismatch(found, wanted) == (
        'missing: a; not in the model: d; '
        'of another shape: b (3,) where the model has (2,); '
        'of another dtype: c (torch.int64) where the model has torch.float32'
    )
