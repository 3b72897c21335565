"""What no kernel takes is refused by name by every launcher, before anything is launched or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_cases import store

from trimtab.kernels.attention_paged import paged_attention
from trimtab.kernels.attention_plan import plan
from trimtab.kernels.attention_prefill import prefill_attention
from trimtab.kernels.int4_weight import pack_int4
from trimtab.kernels.kv_write import write_kv
from trimtab.kernels.norm import rms_norm
from trimtab.kernels.sampling import sample
from trimtab.kernels.swiglu import swiglu
from trimtab.kernels.w4a16 import w4a16
from trimtab.kernels.w8a16 import pack_int8, w8a16

Call = tuple[Callable[..., Any], dict[str, Any]]


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def calls() -> dict[str, Call]:
    """A call of each launcher that is right, on a CPU."""
    made = store([2], [20])
    names = ("q", "k_pages", "v_pages", "page_table", "q_start", "kv_len")
    paged = {**dict(zip(names, made.all, strict=True)), "scale": 1.0}
    prompt = {"q": floats(3, 4, 64), "k": floats(3, 2, 64), "v": floats(3, 2, 64), "scale": 1.0}
    token = {"q": floats(2, 4, 64), "k": floats(2, 2, 64), "v": floats(2, 2, 64), "slots": torch.arange(2)}
    pages = {"k_pages": torch.zeros(1, 2, 16, 64), "v_pages": torch.zeros(1, 2, 16, 64), "positions": torch.arange(2)}
    turns = {"cos": floats(4, 32), "sin": floats(4, 32), "q_norm": floats(64), "k_norm": floats(64)}
    each = {name: torch.zeros(2) for name in ("temperature", "top_p", "min_p")}
    keyed = {"top_k": torch.zeros(2, dtype=torch.int32), "seed": torch.arange(2), "position": torch.arange(2)}
    four = pack_int4(torch.randint(0, 16, (8, 64)), torch.rand(8, 1).half(), group=64, zeros=torch.ones(8, 1))
    product = {"x": floats(2, 64), "bias": floats(8)}
    return {
        "norm": (rms_norm, {"x": floats(2, 8), "weight": floats(8), "eps": 1e-5, "residual": floats(2, 8)}),
        "swiglu": (swiglu, {"gate": floats(2, 8), "up": floats(2, 8)}),
        "write_kv": (write_kv, {**token, **pages, **turns}),
        "w4a16": (w4a16, {**product, "weight": four}),
        "w8a16": (w8a16, {**product, "weight": pack_int8(floats(8, 64))}),
        "sample": (sample, {"logits": floats(2, 9), **each, **keyed}),
        "paged": (paged_attention, paged),
        "prefill": (prefill_attention, {**prompt, "q_start": torch.tensor([0, 3], dtype=torch.int32)}),
    }


NAMED = [(name, argument) for name, (_, given) in calls().items() for argument, value in given.items()
         if isinstance(value, torch.Tensor) and value.is_floating_point()]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32])
@pytest.mark.parametrize(("name", "argument"), NAMED)
def test_dtypes_that_no_kernel_computes_with(name: str, argument: str, dtype: torch.dtype) -> None:
    launch, right = calls()[name]
    with pytest.raises(ValueError, match=f"^({argument}|out):"):
        launch(**{**right, argument: right[argument].to(dtype)})


@pytest.mark.parametrize(("name", "argument"), NAMED)
def test_another_device(name: str, argument: str) -> None:
    """`meta` is a device without memory: a kernel that was launched with it would crash."""
    launch, right = calls()[name]
    with pytest.raises(ValueError, match=r"^\w+: .*device"):
        launch(**{**right, argument: right[argument].to("meta")})


@pytest.mark.parametrize("field", ["codes", "scales", "zeros"])
def test_weights_that_were_not_packed_here(field: str) -> None:
    launch, right = calls()["w4a16"]
    held = getattr(right["weight"], field)
    for wrong in (held[:, :4], held.to("meta"), held.repeat_interleave(2, -1)[..., ::2]):
        with pytest.raises(ValueError, match=r"^(weight|x):"):
            launch(**{**right, "weight": replace(right["weight"], **{field: wrong})})


def test_a_plan_for_more_sequences() -> None:
    launch, right = calls()["paged"]
    other = plan([1, 2], [9, 20], heads=4, kv_heads=2, page=16, sms=4)
    with pytest.raises(ValueError, match=r"^plan: made for 2 sequences"):
        launch(**right, plan=other)
