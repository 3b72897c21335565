"""Triton's interpreter, made to run with today's numpy. For tests and rehearsals alone: the engine never imports it.

Triton 3.6 holds a loaded scalar as an array of one element, and turns it into a loop's bound with `int(array)`, which
numpy 2.4 refuses for anything but zero dimensions. Knows nothing of kernels.
"""

from __future__ import annotations

import builtins
from typing import Any


class _Whole(type):
    def __instancecheck__(cls, found: object) -> bool:
        return isinstance(found, builtins.int)

    def __call__(cls, found: Any) -> builtins.int:
        return builtins.int(found.item() if hasattr(found, "item") else found)


class _Int(metaclass=_Whole):
    """`int`, that also takes an array of one element."""


def mend() -> None:
    """Gives the interpreter's module its own `int`; does nothing where triton is missing."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    interpreter.__dict__["int"] = _Int
