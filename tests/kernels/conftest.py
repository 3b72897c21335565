"""Kernels are tested anywhere: in Triton's interpreter, or compiled where there is a CUDA device.

TRITON_INTERPRET has to be set before triton is first imported, so it is set here, before any test module is. With a
CUDA device (and no TRITON_INTERPRET from outside) nothing is interpreted: the same tests then run the real kernels.
The interpreter computes bfloat16 wrongly and does not round float8 to nearest, so bfloat16 is tested on a GPU alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Assembled = Callable[..., list[dict[str, Any]]]

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


@pytest.fixture(scope="session")
def assembled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Assembled:
    """What a script of tests/ that compiles kernels for a GPU says of each. Triton keeps what it compiles by source,
    options and version, in pytest's cache: only what has changed is compiled again."""
    triton = pytest.importorskip("triton")
    if not (Path(triton.__file__).parent / "backends/nvidia/bin/ptxas").exists():
        pytest.skip("this triton brings no assembler")
    cache = getattr(request.config, "cache", None)  # none under `-p no:cacheprovider`
    kept = tmp_path_factory.mktemp("compiled") if cache is None else cache.mkdir("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

    def run(script: str, *words: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parents[1] / script), *words],
            env=environment | {"TRITON_CACHE_DIR": str(kept)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


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
