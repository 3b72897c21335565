"""From logits to tokens: sampling, and the walk over guesses. Bound by bytes with many rows, by latency with few."""

from __future__ import annotations

import torch
from case import Bar, Case, Inputs, Thunk

from trimtab.kernels.sampling import reference_floor, sample
from trimtab.kernels.verify import reference_verify_walk, verify_walk

LAWS = {
    "plain": (1.0, 0, 1.0, 0.0),
    "top_p": (0.8, 0, 0.95, 0.0),
    "all": (0.7, 50, 0.9, 0.02),
}
CHECKED = 4  # rows of which each is looked at in float64


def cases(rehearse: bool) -> list[Case]:
    if rehearse:
        return [*(drawn(2, 5000, law) for law in LAWS), walked(3, 5), walked(2, 64, tree=True)]
    found = [drawn(rows, 128256, law) for rows in (1, 64, 256) for law in LAWS]
    return [*found, walked(256, 8), walked(64, 32, tree=True)]


def drawn(rows: int, vocabulary: int, law: str) -> Case:
    heat, top_k, top_p, min_p = LAWS[law]

    def make(device: torch.device, seed: int) -> Inputs:
        """Logits as a model's are: a few tokens far above a wide field."""
        source = torch.Generator(device).manual_seed(seed)
        logits = torch.randn(rows, vocabulary, generator=source, device=device) * 2.5
        likely = torch.randint(0, vocabulary, (rows, 20), generator=source, device=device)
        logits.scatter_add_(1, likely, torch.rand(rows, 20, generator=source, device=device) * 14)

        def each(value: float, dtype: torch.dtype) -> torch.Tensor:
            return torch.full((rows,), value, dtype=dtype, device=device)

        return {
            "logits": logits,
            "temperature": each(heat, torch.float32),
            "top_k": each(top_k, torch.int32),
            "top_p": each(top_p, torch.float32),
            "min_p": each(min_p, torch.float32),
            "seed": torch.arange(rows, device=device) + seed,
            "position": torch.arange(rows, device=device),
        }

    def ours(inputs: Inputs) -> Thunk:
        out = torch.full((rows,), -1, device=inputs["logits"].device)
        return lambda: sample(**inputs, out=out)

    def by_sort(inputs: Inputs) -> Thunk:
        """What a sampler in plain torch does: sort, cut, draw."""

        def run() -> torch.Tensor:
            ordered, ids = (inputs["logits"] / inputs["temperature"][:, None]).sort(descending=True)
            p = ordered.softmax(1)
            cut = (p.cumsum(1) - p) >= inputs["top_p"][:, None]
            if top_k:
                cut |= torch.arange(vocabulary, device=p.device) >= top_k
            cut |= p < p[:, :1] * min_p
            noise = torch.empty_like(p).exponential_()
            return ids.gather(1, (p.masked_fill(cut, 0) / noise).argmax(1, keepdim=True))[:, 0]

        return run

    def check(inputs: Inputs, output: torch.Tensor) -> float:
        """The share of the looked-at rows whose token may not be drawn at all."""
        wrong = 0
        for at in range(min(rows, CHECKED)):
            z = inputs["logits"][at].double() / heat
            token = int(output[at])
            fits = 0 <= token < vocabulary
            wrong += not (fits and bool(z[token] >= reference_floor(z, top_k, top_p + 1e-5, min_p) - 1e-4))
        return wrong / CHECKED

    return Case(
        name=f"sample/{rows}x{vocabulary}_{law}",
        make=make,
        systems={"trimtab": ours, "torch_sort": by_sort},
        check=check,
        tolerance=0.0,
        bytes=rows * vocabulary * 4,
        bars={"vs_torch_sort": Bar(3.0, 6.0)} if rows > 1 else {},
    )


def walked(sequences: int, each: int, *, tree: bool = False) -> Case:
    def make(device: torch.device, seed: int) -> Inputs:
        source = torch.Generator().manual_seed(seed)
        drawn, tokens = torch.randint(0, 3, (2, sequences * each), generator=source)
        above = [-1, *(int(torch.randint(0, at + 1, (1,), generator=source)) for at in range(each - 1))]
        parents = torch.tensor(above * sequences, dtype=torch.int32)
        starts = torch.arange(0, sequences * each + 1, each, dtype=torch.int32)
        made = {"drawn": drawn, "tokens": tokens, "starts": starts}
        return {name: held.to(device) for name, held in (made | ({"parents": parents} if tree else {})).items()}

    def ours(inputs: Inputs) -> Thunk:
        device = inputs["drawn"].device
        count, path = torch.empty(sequences, dtype=torch.int32), torch.empty(sequences, 64, dtype=torch.int32)
        out = (count.to(device), path.to(device), torch.empty(sequences, 64, dtype=torch.int64, device=device))
        return lambda: verify_walk(**inputs, out=out)

    def check(inputs: Inputs, output: tuple[torch.Tensor, ...]) -> float:
        held = [inputs[name].cpu() for name in ("drawn", "tokens", "starts")]
        parents = inputs["parents"].cpu() if tree else None
        exact = reference_verify_walk(*held, parents, 64)
        same = all(torch.equal(one.cpu(), other) for one, other in zip(output, exact, strict=True))
        return 0.0 if same else 1.0

    return Case(
        name=f"walk/{sequences}x{each}_{'tree' if tree else 'chain'}",
        make=make,
        systems={"trimtab": ours},
        check=check,
        tolerance=0.0,
        bytes=sequences * (each * 20 + 64 * 12 + 8),
        bars={"ms": Bar(0.012, 0.006, ceiling=True)},
    )
