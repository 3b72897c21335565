"""Finds block sizes on this GPU and writes them to kernels/tuning/NAME.json. Offline: nothing is tuned on a request.

    python benchmarks/kernels/tune.py [--only KERNEL ...] [--quick] [--dry]

For each kernel and size the candidates below run as `run.py` times them, each checked first, and the fastest is kept
where it beats the kernel's own defaults by more than the spread of the rounds: an entry that is not there is a default
that was not beaten. `--dry` prints the candidates and runs nothing. A table is for one GPU; run this on each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
TABLES = HERE.parent.parent / "kernels/tuning"
QUICK = 12  # candidates of each search that --quick tries


@dataclass(frozen=True, eq=False)
class Search:
    """`case` is a benchmark case; the winner holds for every size up to `upto`; `grid` names the values to combine."""

    kernel: str
    case: str
    upto: dict[str, int]
    grid: dict[str, tuple[int, ...]]

    def candidates(self) -> Iterator[dict[str, int]]:
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


LARGEST = 1 << 30
WARPS, STAGES = (2, 4, 8), (2, 3, 4, 5, 6)


def searches() -> list[Search]:
    """In the order of the table: the first entry whose limits hold is used, so narrow ones come first."""
    return [*attention(), *products(), *rows_and_tokens()]


def attention() -> list[Search]:
    """Blocks of a plan are its own; what is found here is how many warps and stages each takes."""
    found = []
    steps = {16: "decode/b64_4k", 32: "verify/b8_8k_q8", 64: "verify/b8_8k_q16", 128: "verify/b8_8k_tree32"}
    for block, case in steps.items():
        upto = {"block": block, "d": 128}
        found.append(Search("paged_attention", case, upto, {"num_warps": (2, 4, 8), "num_stages": STAGES}))
    grid = {
        "block": (64, 128),
        "tile": (32, 64, 128),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4),
        "descriptors": (0, 1),
        "specialised": (0, 1),
    }
    found.append(Search("prefill_attention", "prompt/8k_d64", {"rows": LARGEST, "d": 64}, grid))
    return [*found, Search("prefill_attention", "prompt/8k", {"rows": LARGEST, "d": 128}, grid)]


def products() -> list[Search]:
    found = []
    for out, columns, wide in ((4096, 14336, 4096), (28672, 4096, LARGEST)):
        shape = {"out": wide, "bits": 16}
        few = {
            "BLOCK_N": (64, 128),
            "SPLITS": (0, 1, 2, 4, 8, 16),
            "num_warps": (4, 8),
            "num_stages": STAGES,
            "ASM": (0, 1),
        }
        many = {
            "BLOCK_M": (64, 128, 256),
            "BLOCK_N": (64, 128),
            "SCALE_FIRST": (0, 1),
            "SPLITS": (0, 1),
            "num_warps": (4, 8),
            "num_stages": (2, 3, 4),
        }
        for rows in (1, 16):
            found.append(Search("w4a16", f"w4a16/{out}x{columns}_g128_m{rows}", {"rows": rows, **shape}, few))
        for rows in (64, 256):
            found.append(Search("w4a16", f"w4a16/{out}x{columns}_g128_m{rows}", {"rows": rows, **shape}, many))
        dense = {"DENSE_FROM": (1, LARGEST), "num_stages": (3, 4)}
        found.append(Search("w4a16", f"w4a16/{out}x{columns}_g128_m2048", {"rows": LARGEST, **shape}, dense))
        bytes_few = {name: values for name, values in few.items() if name != "ASM"}
        for rows in (1, 16):
            found.append(Search("w8a16", f"w8a16/{out}x{columns}_m{rows}", {"rows": rows, **shape}, bytes_few))
        tall = {"BLOCK_M": (64, 128, 256), "BLOCK_N": (64, 128), "num_warps": (4, 8), "num_stages": (2, 3, 4)}
        found.append(Search("w8a16", f"w8a16/{out}x{columns}_m256", {"rows": LARGEST, **shape}, tall))
    return found


def rows_and_tokens() -> list[Search]:
    found = []
    for rows, upto in ((1, 16), (256, 1024), (8192, LARGEST)):
        found += [
            Search("rms_norm", f"norm/{rows}x4096", {"rows": upto, "columns": 4096}, {"num_warps": (1, 2, 4, 8, 16)}),
            Search(
                "swiglu", f"swiglu/{rows}x14336", {"rows": upto}, {"BLOCK": (512, 1024, 2048, 4096), "num_warps": WARPS}
            ),
            Search(
                "write_kv",
                f"kv_write/{rows}x32+8x128",
                {"rows": upto},
                {"BLOCK_H": (1, 2, 4, 8), "num_warps": (1, 2, 4)},
            ),
        ]
    for rows, upto in ((1, 8), (64, 128), (256, LARGEST)):
        grid = {"BLOCK": (2048, 4096, 8192), "KEEP": (1024, 2048, 4096), "num_warps": (8, 16, 32)}
        found.append(Search("sample", f"sample/{rows}x128256_all", {"rows": upto}, grid))
    return found


def options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="KERNEL", choices=sorted({s.kernel for s in searches()}))
    parser.add_argument("--quick", action="store_true", help="a random dozen of candidates for each search")
    parser.add_argument("--dry", action="store_true", help="print what would be tried")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    chosen = options(arguments)
    wanted = [search for search in searches() if chosen.only is None or search.kernel in chosen.only]
    if chosen.dry:
        for search in wanted:
            print(f"{search.kernel}: {len(list(search.candidates()))} candidates at {search.case}, up to {search.upto}")
        return 0
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device: --dry needs none", file=sys.stderr)
        return 2
    found = {search: best(search, chosen.quick) for search in wanted}
    write(torch.cuda.get_device_name(), wanted, found)
    return 0


def best(search: Search, quick: bool) -> dict[str, int] | None:
    """The candidate that beats the defaults by most; None when none does."""
    import torch
    from run import topics
    from timing import Recorded, race, sets_needed

    from trimtab.kernels import dispatch

    case = next(case for topic in topics() for case in topic.cases(False) if case.name == search.case)
    device, order = torch.device("cuda"), random.Random(0)
    inputs = [case.make(device, seed) for seed in range(sets_needed(device, case.bytes))]
    candidates = list(search.candidates())
    if quick:
        candidates = order.sample(candidates, min(QUICK, len(candidates)))

    def timed(choice: dict[str, int]) -> tuple[float, float]:
        """(the median, the slowest round); inf for a choice that does not compile or is wrong."""
        with dispatch.trying(search.kernel, choice):
            try:
                thunks = [case.systems["trimtab"](one) for one in inputs]
                if not case.check(inputs[0], thunks[0]()) <= case.tolerance:
                    return float("inf"), float("inf")
                rounds = race({"": Recorded(thunks)}, 3, order)[""].rounds
            except Exception as why:  # too much shared memory, or a shape that Triton refuses
                print(f"  {choice}: {type(why).__name__}")
                return float("inf"), float("inf")
        return sorted(rounds)[1], max(rounds)

    before = timed({})[0]
    times = [(*timed(choice), choice) for choice in candidates]
    median, slowest, winner = min(times, key=lambda each: each[0])
    print(f"{search.case}: {before * 1e3:.2f} us by default, {median * 1e3:.2f} us with {winner}")
    return winner if slowest < before else None


def write(gpu: str, wanted: list[Search], found: dict[Any, dict[str, int] | None]) -> None:
    """Replaces the entries of the kernels that were searched, and leaves the others."""
    path = TABLES / f"{gpu.replace(' ', '_')}.json"
    table: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"gpu": gpu, "kernels": {}}
    for kernel in dict.fromkeys(search.kernel for search in wanted):
        entries = [(search, found[search]) for search in wanted if search.kernel == kernel]
        table["kernels"][kernel] = [{"upto": search.upto, "use": use or {}} for search, use in entries]
    path.write_text(json.dumps({**table, "measured": True}, indent=1) + "\n")
    print(f"wrote {path.name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
