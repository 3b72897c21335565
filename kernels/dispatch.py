"""Where a kernel runs: Triton on a CUDA device, plain torch anywhere else, or as the switch says; and the tuning table.

A kernel file imports `jit` and `tl` from here, so that it can be imported where triton is not installed; its public
function asks `use_triton` which way to go (switch.py has the override).

Block sizes come from `tuning/<GPU name>.json`, which `benchmarks/kernels/tune.py` writes. Nothing is ever tuned while
a request waits: a shape that the table does not know runs with the kernel's own defaults. This module knows no kernel.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from .switch import forced, mode

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU-only install: the torch path is all there is
    triton = tl = None

__all__ = [
    "FLOATS",
    "blocks",
    "forced",
    "jit",
    "multiprocessors",
    "on",
    "power_of_two",
    "require",
    "require_floats",
    "tl",
    "triton",
    "trying",
    "tuned",
    "use_triton",
]

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
log = logging.getLogger("trimtab.kernels")

_TUNING = Path(__file__).parent / "tuning"


def use_triton(tensor: torch.Tensor) -> bool:
    """Whether a kernel is to run for data on this tensor's device."""
    if mode():
        return mode() == "triton"
    return tensor.is_cuda and _compiles()


@functools.cache
def _compiles() -> bool:
    """Whether triton can compile here: for its launchers it needs a C compiler, which an image may lack."""
    try:
        if triton is not None:
            triton.runtime.driver.active.get_current_target()
    except Exception as why:  # whatever it is, plain torch still answers
        log.warning("kernels run as plain torch, slowly: triton does not work here: %s", why)
        return False
    return triton is not None


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit`; where triton is missing, the function itself, which nobody then calls."""
    return function if triton is None else triton.jit(function)


def on(tensor: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Makes the tensor's device the current one: Triton launches there, whatever device its arguments are on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def require(holds: bool, argument: str, message: str) -> None:
    """Raises ValueError naming the argument, before anything is launched."""
    if not holds:
        raise ValueError(f"{argument}: {message}")


def require_floats(name: str, *tensors: torch.Tensor | None) -> None:
    """Raises ValueError for what no kernel computes with: whole numbers, float64, float8."""
    for tensor in tensors:
        held = tensor is None or (isinstance(tensor, torch.Tensor) and tensor.dtype in FLOATS)
        require(held, name, "must be a tensor of float32, float16 or bfloat16")


def power_of_two(size: int) -> int:
    """The least power of two that holds `size`: what `tl.arange` needs."""
    return 1 << max(size - 1, 0).bit_length()


def blocks(size: int, block: int) -> int:
    """How many blocks cover `size`."""
    return -(-size // block)


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many programs run at the same moment; 132, an H200's, where there is no GPU to ask (the interpreter)."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def tuned(kernel: str, device: torch.device, defaults: dict[str, int], **sizes: int) -> dict[str, int]:
    """The block sizes, `num_warps` and `num_stages` for one launch: the defaults, overridden by the first entry of the
    GPU's table for `kernel` whose every limit in `upto` is at least the size of that name."""
    choice = dict(defaults)
    if kernel in _tried:
        return choice | _tried[kernel]
    for entry in _table(_gpu(device)).get(kernel, ()):
        if all(sizes.get(name, 0) <= limit for name, limit in entry["upto"].items()):
            choice.update(entry["use"])
            break
    return choice


_tried: dict[str, dict[str, int]] = {}


@contextlib.contextmanager
def trying(kernel: str, choice: dict[str, int]) -> Iterator[None]:
    """Within it `tuned` answers for one kernel with its defaults and `choice` over them. For the tuner alone."""
    _tried[kernel] = choice
    try:
        yield
    finally:
        del _tried[kernel]


@functools.cache
def _gpu(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


@functools.cache
def _table(gpu: str) -> dict[str, list[dict[str, dict[str, int]]]]:
    path = _TUNING / f"{gpu.replace(' ', '_')}.json"
    if not gpu or not path.exists():
        return {}
    table: dict[str, list[dict[str, dict[str, int]]]] = json.loads(path.read_text())["kernels"]
    return table
