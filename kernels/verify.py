"""How far guessed tokens agree with the tokens that the target itself drew, for chains and trees, on the device.

    node = 0; emit drawn[0]
    while some child c of node has tokens[c] = drawn[node]:   node = c; emit drawn[c]

The target's token is drawn first at every row, with noise keyed by position, and the guesses only decide how many rows
of one pass count ("sample, then match"): what is emitted is what one token at a time would have emitted, for any way of
sampling. For a deterministic guess this is the acceptance rule of speculative sampling (Leviathan et al., arXiv
2211.17192), and of its trees (SpecInfer, arXiv 2305.09781). Among equal children the first is taken.

One program walks one sequence, whose rows fit one vector, so a step is a comparison and a minimum.
"""

from __future__ import annotations

import torch

from .dispatch import jit, on, require, tl, use_triton

MOST_ROWS = 64

Walk = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def reference_verify_walk(
    drawn: torch.Tensor, tokens: torch.Tensor, starts: torch.Tensor, parents: torch.Tensor | None, most: int
) -> Walk:
    """In plain Python; (count, path, emitted) of `verify_walk`."""
    counts, paths, says = [], [], []
    for first, end in zip(starts.tolist(), starts.tolist()[1:], strict=False):
        draws, fed = drawn[first:end].tolist(), tokens[first:end].tolist()
        above = list(range(-1, end - first - 1)) if parents is None else parents[first:end].tolist()
        path = [0] if draws else []
        while path:
            last = path[-1]
            children = [at for at in range(1, len(fed)) if above[at] == last and fed[at] == draws[last]]
            if not children:
                break
            path.append(children[0])
        says.append([draws[at] for at in path] + [-1] * (most - len(path)))
        paths.append(path + [-1] * (most - len(path)))
        counts.append(len(path))
    return (
        torch.tensor(counts, dtype=torch.int32, device=drawn.device),
        torch.tensor(paths, dtype=torch.int32, device=drawn.device).reshape(len(counts), most),
        torch.tensor(says, dtype=torch.int64, device=drawn.device).reshape(len(counts), most),
    )


@jit
def _verify_kernel(
    drawn_ptr,
    tokens_ptr,
    starts_ptr,
    parents_ptr,
    count_ptr,
    path_ptr,
    emitted_ptr,
    most,
    TREE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sequence = tl.program_id(0)
    first = tl.load(starts_ptr + sequence)
    size = tl.load(starts_ptr + sequence + 1) - first
    row = tl.arange(0, BLOCK)
    inside = row < size
    drawn = tl.load(drawn_ptr + first + row, mask=inside, other=-1)
    tokens = tl.load(tokens_ptr + first + row, mask=inside, other=-2)
    parents = row - 1
    if TREE:
        parents = tl.load(parents_ptr + first + row, mask=inside, other=-1)
    path = tl.full([BLOCK], -1, tl.int32)
    emitted = tl.full([BLOCK], -1, tl.int64)
    node = tl.where(size > 0, 0, 1073741824)
    count = 0
    while node < 1073741824:
        said = tl.sum(tl.where(row == node, drawn, 0), axis=0)
        path = tl.where(row == count, node, path)
        emitted = tl.where(row == count, said, emitted)
        count += 1
        # A child stands behind its parent, so a walk that only goes forward ends, whatever the arguments hold.
        child = inside & (row > node) & (parents == node) & (tokens == said)
        node = tl.min(tl.where(child, row, 1073741824), axis=0)
    tl.store(count_ptr + sequence, count)
    tl.store(path_ptr + sequence * most + row, path, mask=row < most)
    tl.store(emitted_ptr + sequence * most + row, emitted, mask=row < most)


def verify_walk(
    drawn: torch.Tensor,
    tokens: torch.Tensor,
    starts: torch.Tensor,
    parents: torch.Tensor | None = None,
    *,
    most: int = MOST_ROWS,
    out: Walk | None = None,
) -> Walk:
    """(count, path, emitted) for every sequence; see the module's formula.

    drawn    [rows] int64, what the target drew from each row's logits
    tokens   [rows] int64, what was fed in at each row; row 0 of a sequence is its last known token
    starts   [sequences + 1] int32: sequence s has rows starts[s] .. starts[s + 1], none or at most `most`
    parents  [rows] int32, each node's parent as a row of its own sequence, before it; -1 for row 0. None: a chain
    most     columns of path and emitted, up to 64
    out      (count [sequences] int32, path [sequences, most] int32, emitted [sequences, most] int64): how many tokens
             are emitted, the rows that they were drawn from in rising order, the tokens; -1 beyond `count`
    """
    _check(drawn, tokens, starts, parents, most, out)
    sequences = len(starts) - 1
    if out is None:
        out = (
            torch.empty(sequences, dtype=torch.int32, device=drawn.device),
            torch.empty(sequences, most, dtype=torch.int32, device=drawn.device),
            torch.empty(sequences, most, dtype=torch.int64, device=drawn.device),
        )
    if not use_triton(drawn):
        for into, value in zip(out, reference_verify_walk(drawn, tokens, starts, parents, most), strict=True):
            into.copy_(value)
        return out
    if sequences:
        with on(drawn):
            _verify_kernel[(sequences,)](
                drawn, tokens, starts, parents, *out, most, TREE=parents is not None, BLOCK=MOST_ROWS, num_warps=1
            )
    return out


def _check(
    drawn: torch.Tensor,
    tokens: torch.Tensor,
    starts: torch.Tensor,
    parents: torch.Tensor | None,
    most: int,
    out: Walk | None,
) -> None:
    require(drawn.ndim == 1 and drawn.dtype == torch.int64, "drawn", "must be [rows] int64")
    require(0 < most <= MOST_ROWS, "most", f"must be from 1 to {MOST_ROWS}, not {most}")
    require(tokens.shape == drawn.shape and tokens.dtype == torch.int64, "tokens", "must be [rows] int64")
    require(starts.ndim == 1 and len(starts) > 0 and starts.dtype == torch.int32, "starts", "must be int32")
    held = {"drawn": drawn, "tokens": tokens, "starts": starts}
    if parents is not None:
        require(parents.shape == drawn.shape and parents.dtype == torch.int32, "parents", "must be [rows] int32")
        held["parents"] = parents
    if out is not None:
        count, path, emitted = out
        sequences = len(starts) - 1
        require(count.shape == (sequences,) and count.dtype == torch.int32, "out", "count must be [sequences] int32")
        for name, tensor, dtype in (("path", path, torch.int32), ("emitted", emitted, torch.int64)):
            fits = tensor.shape == (sequences, most) and tensor.dtype == dtype
            require(fits, "out", f"{name} must be [sequences, most] {dtype}")
        held |= {"out": count, "out: path": path, "out: emitted": emitted}
    for name, tensor in held.items():
        require(tensor.device == drawn.device, name, "must be on drawn's device")
        require(tensor.is_contiguous(), name, "must be contiguous")
