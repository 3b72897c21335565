"""The one switch: whether kernels run for a device's data. `TRIMTAB_KERNELS=triton|torch`, read once, overrides it.

Apart from dispatch.py so that whoever lays memory out for kernels can ask without importing triton. With `triton` a CPU
takes the ways of a GPU, in Triton's interpreter (TRITON_INTERPRET=1, set before triton is imported); with `torch` a GPU
runs each kernel's plain torch. For tests.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

log = logging.getLogger("trimtab.engine")

_MODES = ("", "triton", "torch")


def _checked(mode: str) -> str:
    if mode not in _MODES:
        raise ValueError(f"TRIMTAB_KERNELS: must be triton or torch, not {mode!r}")
    if mode == "triton" and importlib.util.find_spec("triton") is None:
        raise ValueError("TRIMTAB_KERNELS: triton is not installed")
    return mode


_state = {"mode": _checked(os.environ.get("TRIMTAB_KERNELS", ""))}


@contextlib.contextmanager
def forced(mode: str) -> Iterator[None]:
    """Within it every launcher goes one way: "triton", "torch", or "" for the usual choice. For tests and benchmarks;
    it holds for the whole process, not for one thread."""
    before = _state["mode"]
    _state["mode"] = _checked(mode)
    try:
        yield
    finally:
        _state["mode"] = before


def mode() -> str:
    return _state["mode"]


def serves(device: torch.device) -> bool:
    """Whether this room computes for the device, by kernels or by their plain torch: memory is then laid out for it."""
    return device.type != "cpu" or mode() == "triton"


@functools.cache
def _vectors() -> bool:
    import torch

    if importlib.util.find_spec("llvmlite") is None or not torch.cpu._is_vnni_supported():
        return False
    try:
        from .native import works
    except (ImportError, OSError) as why:  # its library cannot be loaded here
        log.warning("the engine computes without its own functions for this CPU: %s", why)
        return False
    return works()


def native(device: torch.device) -> bool:
    """Whether our own native functions compute for it: on CPUs with VNNI in vectors of 512 bits."""
    return device.type == "cpu" and not mode() and _vectors()
