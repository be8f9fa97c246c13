"""Kernel tests run compiled where there is a GPU and in Triton's interpreter elsewhere (see tests/conftest.py)."""

import pytest
import torch

pytest.importorskip("triton")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
