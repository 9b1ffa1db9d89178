"""Tests whose bodies run on a CPU in CI and, by `make test-gpu`, on a CUDA device."""

import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker('cuda') and not torch.cuda.is_available():
        pytest.skip('needs a CUDA device: torch.cuda.is_available() is False')


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.cuda)])
def device(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _no_cache():
    """Free the memory of one test for the next."""
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
