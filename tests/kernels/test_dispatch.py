"""The switch and the tuning table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trimtab.kernels import dispatch
from trimtab.kernels.swiglu import swiglu

ROOT = Path(__file__).parents[2]


def test_the_switch() -> None:
    x = torch.randn(2, 8)
    with dispatch.forced("torch"):
        assert not dispatch.use_triton(x)
        with dispatch.forced("triton"):
            assert dispatch.use_triton(x)
        assert not dispatch.use_triton(x)
    with dispatch.forced(""):
        assert not dispatch.use_triton(x), "plain torch on a CPU, whatever is installed"


@pytest.mark.gpu
def test_kernels_run_on_a_gpu() -> None:
    with dispatch.forced(""):
        assert dispatch.use_triton(torch.ones(1, device="cuda"))


@pytest.mark.parametrize("works", [True, False])
def test_where_triton_cannot_compile_a_gpu_runs_plain_torch(
    works: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An image without a C compiler: triton says so when its driver is first asked for."""

    class Driver:
        def get_current_target(self) -> None:
            if not works:
                raise RuntimeError("Failed to find C compiler.")

    found = SimpleNamespace(runtime=SimpleNamespace(driver=SimpleNamespace(active=Driver())))
    monkeypatch.setattr(dispatch, "triton", found)
    dispatch._compiles.cache_clear()
    try:
        with dispatch.forced(""):
            assert dispatch.use_triton(SimpleNamespace(is_cuda=True)) is works  # type: ignore[arg-type]
            assert dispatch.use_triton(SimpleNamespace(is_cuda=True)) is works  # type: ignore[arg-type]
        assert caplog.text.count("C compiler") == (not works), "said once"
    finally:
        dispatch._compiles.cache_clear()


def test_an_unknown_way_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"^TRIMTAB_KERNELS: must be triton or torch, not 'cuda'"),
        dispatch.forced("cuda"),
    ):
        pass


def test_all_kernels_can_be_imported_and_used_without_triton() -> None:
    names = [path.stem for path in sorted((ROOT / "kernels").glob("*.py"))]
    code = (
        "import sys, importlib; sys.modules['triton'] = None\n"
        f"for name in {names}: importlib.import_module('trimtab.kernels.' + name)\n"
        "import torch; from trimtab.kernels.swiglu import swiglu\n"
        "print(swiglu(torch.zeros(1, 2), torch.ones(1, 2)).tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[[0.0, 0.0]]\n", done.stderr


def test_the_first_entry_that_is_large_enough_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entries = [
        {"upto": {"rows": 16, "columns": 4096}, "use": {"BLOCK": 64, "num_warps": 2}},
        {"upto": {"rows": 16}, "use": {"BLOCK": 128}},
    ]
    (tmp_path / "Some_GPU.json").write_text(json.dumps({"gpu": "Some GPU", "kernels": {"k": entries}}))
    monkeypatch.setattr(dispatch, "_TUNING", tmp_path)
    monkeypatch.setattr(dispatch, "_gpu", lambda _: "Some GPU")
    dispatch._table.cache_clear()
    try:
        device, defaults = torch.device("cpu"), {"BLOCK": 1, "num_warps": 8}
        assert dispatch.tuned("k", device, defaults, rows=16, columns=4096) == {"BLOCK": 64, "num_warps": 2}
        assert dispatch.tuned("k", device, defaults, rows=16, columns=4097) == {"BLOCK": 128, "num_warps": 8}
        assert dispatch.tuned("k", device, defaults, rows=17, columns=1) == defaults
        assert dispatch.tuned("other", device, defaults, rows=1) == defaults
        assert defaults == {"BLOCK": 1, "num_warps": 8}
    finally:
        dispatch._table.cache_clear()


@pytest.mark.parametrize("path", sorted((ROOT / "kernels/tuning").glob("*.json")), ids=lambda path: path.stem)
def test_the_tables_that_ship_are_well_formed(path: Path) -> None:
    table = json.loads(path.read_text())
    assert table["gpu"].replace(" ", "_") == path.stem
    assert isinstance(table["measured"], bool)
    for entries in table["kernels"].values():
        for entry in entries:
            assert all(isinstance(limit, int) for limit in entry["upto"].values())
            assert all(isinstance(value, int) for value in entry["use"].values())


def test_the_interpreter_is_what_runs_here() -> None:
    """Were it not, the tests of this folder would test torch against torch."""
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled here")
    launched = []

    def seen(*args: object, **more: object) -> None:
        launched.append(args)

    from trimtab.kernels import swiglu as file

    hooks = file._swiglu_kernel.pre_run_hooks
    hooks.append(seen)
    try:
        swiglu(torch.zeros(1, 2), torch.ones(1, 2))
    finally:
        hooks.remove(seen)
    assert len(launched) == 1
