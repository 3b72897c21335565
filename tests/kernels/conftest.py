"""Kernels are tested anywhere: in Triton's interpreter, or compiled where there is a CUDA device.

TRITON_INTERPRET has to be set before triton is first imported, so it is set here, before any test module is. With a
CUDA device (and no TRITON_INTERPRET from outside) nothing is interpreted: the same tests then run the real kernels.
The interpreter computes bfloat16 wrongly and does not round float8 to nearest, so bfloat16 is tested on a GPU alone.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ.setdefault("TRITON_INTERPRET", "1")
collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not CUDA:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    """Every launcher runs its kernel, never the torch path that it would choose for CPU tensors."""
    from trimtab.kernels import dispatch, interpreter

    interpreter.mend()
    with dispatch.forced("triton"):
        yield


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if CUDA else "cpu")


@pytest.fixture(params=["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = getattr(torch, request.param)
    return found


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors on shared cores: more threads cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
