"""TF32 is set within the block and restored after it."""

import pytest
import torch

from mmseg_repvgg.models.tf32 import tf32

NEW = hasattr(torch.backends.cudnn, 'conv')


def settings():
    matmul = torch.backends.cuda.matmul
    if not NEW:
        return torch.backends.cudnn.allow_tf32, matmul.allow_tf32
    owners = (torch.backends.cudnn.conv, matmul)
    return tuple(owner.fp32_precision == 'tf32' for owner in owners)


@pytest.mark.parametrize('allowed', [True, False])
def test_settings_hold_within_the_block_only(allowed):
    before = settings()
    with tf32(allowed):
        assert settings() == (allowed, allowed)
    assert settings() == before == (True, False)
    # The older settings can still be read.
    assert torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_an_exception_restores_the_settings():
    before = settings()
    with pytest.raises(ZeroDivisionError), tf32(False):
        1 / 0  # noqa: B018
    assert settings() == before


@pytest.mark.skipif(not NEW, reason='needs torch 2.9: torch.backends.fp32_precision')
def test_a_global_setting_is_overridden():
    before = torch.backends.fp32_precision
    torch.backends.fp32_precision = 'tf32'
    try:
        with tf32(False):
            assert settings() == (False, False)
        assert settings() == (True, True)
    finally:
        torch.backends.fp32_precision = before
        torch.backends.cuda.matmul.fp32_precision = 'none'
    assert settings() == (True, False)
