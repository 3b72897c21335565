"""Everything the launchers launch compiles for a Hopper GPU, spills nothing and fits its shared memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(600)  # some 20 seconds of one quiet core where nothing was compiled before

SHARED = 232_448  # what one program may have of a multiprocessor's 228 KB


@pytest.fixture(scope="module")
def built(assembled: Callable[..., list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return assembled("hopper_launches.py")


def test_nothing_is_spilled_and_all_of_it_fits(built: list[dict[str, Any]]) -> None:
    assert {each["kernel"] for each in built} == {
        "_rms_norm_kernel", "_swiglu_kernel", "_write_kv_kernel", "_w4a16_kernel", "_add_parts_kernel",
        "_dequantize_kernel", "_w8a16_kernel", "_sample_kernel", "_verify_kernel", "_page_scales_kernel",
    }  # fmt: skip
    assert [each for each in built if each["spilled"] or each["shared"] > SHARED] == []


def test_products_feed_the_matrix_units_from_registers(built: list[dict[str, Any]]) -> None:
    kernels = ("_w4a16_kernel", "_w8a16_kernel")
    products = [each for each in built if each["kernel"] in kernels and not each["name"].endswith(("fp32", "float32"))]
    assert len(products) >= 16
    assert [each for each in products if not each["wgmma"]] == []


def test_four_programs_of_a_small_product_share_a_multiprocessor(built: list[dict[str, Any]]) -> None:
    """One row is read from memory: enough programs must fit for their loads to overlap."""
    for each in built:
        if each["kernel"] == "_w4a16_kernel" and "1 rows" in each["name"]:
            assert each["registers"] * 32 * each["warps"] * 4 <= 65_536, each
            assert (each["shared"] + 1024) * 4 <= 228 * 1024, each
