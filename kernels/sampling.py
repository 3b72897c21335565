"""One token for each row of logits: temperature, top-k, top-p, min-p, and noise that is keyed, never streamed.

    z = logits / temperature,  p = softmax(z)
    kept = { t : z_t >= floor },   floor = the largest of
        top-k   the k-th largest z
        top-p   the z at which the mass of all larger or equal p first reaches top_p
        min-p   max z + log(min_p)
    token = argmax over kept of z_t - log(e_t),   e_t = -log(1 - u_t),   u_t = uniform(seed, position, t)

All floors are of the whole softmax, ties are kept. The last line is the Gumbel trick: the argmax is a draw from p over
the kept. Its noise comes from Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011)
with the seed as key and (place, position) as counter, so a seed gives a position the same token at any batch, and what
is verified draws what would have been sampled. Temperature 0 is the largest logit, the first of equals.

Nothing is sorted. A row is read to find its maximum and mass, and to find how deep below the maximum the kept can lie;
what is above that depth goes to scratch, at most KEEP values, and stays in registers while the floor is found by
bisecting the 32 bits of a float. A row too flat for that is bisected in memory. Noise is made only for blocks that hold
a kept token. One program does one row, in one order, so no other row can change a bit of it.
"""

from __future__ import annotations

import torch

from .dispatch import jit, on, require, require_floats, tl, tuned, use_triton

_COLDEST = 1e-4  # a lower temperature is this one: logits over it must stay finite
_PLACES = 1024  # tokens t, t + 1024, t + 2048, t + 3072 of a block of 4096 are the four words of one Philox counter


def reference_uniform(seed: int, position: int, size: int) -> torch.Tensor:
    """Uniforms in (0, 1) for tokens 0 .. size - 1, float64 [size]: Philox 4x32-10, 32 bits each."""
    token = torch.arange(size)
    block, within = token // (4 * _PLACES), token % (4 * _PLACES)
    word, place = within // _PLACES, block * _PLACES + within % _PLACES
    halves = [torch.full_like(place, position >> shift & 0xFFFFFFFF) for shift in (0, 32)]
    words = _philox(seed, [place, *halves, torch.zeros_like(place)])
    bits = torch.stack(words).gather(0, word.unsqueeze(0))[0]
    return bits.double() * 2.0**-32 + 2.0**-33


def _philox(seed: int, counter: list[torch.Tensor]) -> list[torch.Tensor]:
    """Ten rounds over int64 tensors that hold unsigned 32 bits."""
    low, high = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    a, b, c, d = counter
    for _ in range(10):
        (ah, al), (ch, cl) = _product(a, 0xD2511F53), _product(c, 0xCD9E8D57)
        a, b, c, d = ch ^ b ^ low, cl, ah ^ d ^ high, al
        low, high = low + 0x9E3779B9 & 0xFFFFFFFF, high + 0xBB67AE85 & 0xFFFFFFFF
    return [a, b, c, d]


def _product(x: torch.Tensor, by: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of a product of unsigned 32 bits, in int64 that must not overflow."""
    low, high = (x & 0xFFFF) * by, (x >> 16) * by
    whole = (low >> 16) + high
    return whole >> 16 & 0xFFFFFFFF, (low & 0xFFFF) + (whole << 16) & 0xFFFFFFFF


def reference_floor(z: torch.Tensor, top_k: int, top_p: float, min_p: float) -> float:
    """The least z that is kept; -inf when all are."""
    floors = [float("-inf")]
    if 0 < top_k < len(z):
        floors.append(float(z.topk(top_k).values[-1]))
    if min_p > 0:
        floors.append(float(z.max() + torch.tensor(min_p, dtype=z.dtype).log()))
    if top_p < 1:
        falling, mass = z.sort(descending=True).values, z.softmax(0).sort(descending=True).values.cumsum(0)
        floors.append(float(falling[min(int((mass < top_p).sum()), len(z) - 1)]))
    return max(floors)


def reference_sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, floors) in plain torch, row by row; in float64 when the logits are."""
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    floors = torch.full((len(logits),), float("-inf"), dtype=wide, device=logits.device)
    for at, row in enumerate(logits):
        scores = row.to(wide)
        if float(temperature[at]) > 0:
            z = scores / temperature[at].to(wide).clamp_min(_COLDEST)
            floors[at] = reference_floor(z, int(top_k[at]), float(top_p[at]), float(min_p[at]))
            uniform = reference_uniform(int(seed[at]), int(position[at]), len(z))
            noise = -(-torch.log1p(-uniform)).log()
            scores = (z + noise.to(z.device, wide)).masked_fill(z < floors[at], float("-inf"))
        tokens[at] = scores.argmax()
    return tokens, floors


@jit
def _loaded(row_ptr, start, size, temperature, BLOCK: tl.constexpr):
    at = start + tl.arange(0, BLOCK)
    return tl.load(row_ptr + at, mask=at < size, other=float("-inf")).to(tl.float32) / temperature


@jit
def _measure(row_ptr, size, temperature, BLOCK: tl.constexpr):
    """The largest z, and the mass exp(z - largest) of the row, in one pass."""
    top = tl.full([BLOCK], -3.0e38, tl.float32)
    mass = tl.zeros([BLOCK], tl.float32)
    for start in tl.range(0, size, BLOCK, num_stages=4):
        z = _loaded(row_ptr, start, size, temperature, BLOCK)
        higher = tl.maximum(top, z)
        mass = mass * tl.exp(top - higher) + tl.exp(z - higher)
        top = higher
    largest = tl.max(top, axis=0)
    return largest, tl.sum(mass * tl.exp(top - largest), axis=0)


@jit
def _reach(row_ptr, size, temperature, floor, top, BLOCK: tl.constexpr):
    """How many z are at or above a floor, and their mass."""
    count = tl.zeros([BLOCK], tl.int32)
    mass = tl.zeros([BLOCK], tl.float32)
    for start in tl.range(0, size, BLOCK, num_stages=4):
        z = _loaded(row_ptr, start, size, temperature, BLOCK)
        count += (z >= floor).to(tl.int32)
        mass += tl.where(z >= floor, tl.exp(z - top), 0.0)
    return tl.sum(count, axis=0), tl.sum(mass, axis=0)


@jit
def _enough(count, mass, top_k, want):
    """Whether what is at or above a floor is all that is kept: by number or by mass, whichever is reached first."""
    return ((top_k > 0) & (count >= top_k)) | (mass >= want)


@jit
def _collect(row_ptr, scratch_ptr, size, temperature, floor, KEEP: tl.constexpr, BLOCK: tl.constexpr):
    """Puts every z at or above a floor into scratch, one after the other, and gives them back; -inf behind them."""
    found = tl.zeros([], tl.int32)
    for start in range(0, size, BLOCK):
        z = _loaded(row_ptr, start, size, temperature, BLOCK)
        kept = (z >= floor).to(tl.int32)
        number = tl.sum(kept, axis=0)
        if number > 0:
            tl.store(scratch_ptr + found + tl.cumsum(kept, axis=0) - 1, z, mask=kept != 0)
        found += number
    tl.debug_barrier()
    at = tl.arange(0, KEEP)
    return tl.load(scratch_ptr + at, mask=at < found, other=float("-inf"))


@jit
def _rank(z):
    """32 bits in the order of the floats: larger for larger, so that bisecting them is exact."""
    bits = z.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) | -2147483648)).to(tl.uint32, bitcast=True)


@jit
def _unrank(rank):
    bits = rank.to(tl.int32, bitcast=True)
    return (bits ^ ((~bits >> 31) | -2147483648)).to(tl.float32, bitcast=True)


@jit
def _bisect_kept(z, top, top_k, want):
    """The largest rank such that enough of z, held in registers, is at or above it."""
    ranks = _rank(z)
    masses = tl.exp(z - top)
    found = tl.zeros([], tl.uint32)
    for step in range(32):
        tried = found | (tl.full([], 2147483648, tl.uint32) >> step)
        above = ranks >= tried
        count = tl.sum(above.to(tl.int32), axis=0)
        mass = tl.sum(tl.where(above, masses, 0.0), axis=0)
        found = tl.where(_enough(count, mass, top_k, want), tried, found)
    return found


@jit
def _bisect_row(row_ptr, size, temperature, top, top_k, want, BLOCK: tl.constexpr):
    """The same over the row in memory."""
    found = tl.zeros([], tl.uint32)
    for step in range(32):
        tried = found | (tl.full([], 2147483648, tl.uint32) >> step)
        count, mass = _reach(row_ptr, size, temperature, _unrank(tried), top, BLOCK)
        found = tl.where(_enough(count, mass, top_k, want), tried, found)
    return found


@jit
def _floor(row_ptr, scratch_ptr, size, temperature, top_k, top_p, min_p, KEEP: tl.constexpr, BLOCK: tl.constexpr):
    """The least z that is kept."""
    top, mass = _measure(row_ptr, size, temperature, BLOCK)
    floor = tl.where(min_p > 0, top + tl.log(tl.maximum(min_p, 1e-37)), float("-inf"))
    if (top_k > 0) | (top_p < 1):
        want = tl.where(top_p < 1, tl.maximum(top_p * mass, 1e-30), float("inf"))
        # How deep below the top the kept lie: the first depth that holds enough.
        depth = 3.0
        count, held = _reach(row_ptr, size, temperature, top - depth, top, BLOCK)
        while (depth < 24.0) & (count <= KEEP) & (_enough(count, held, top_k, want) == 0):
            depth += depth
            count, held = _reach(row_ptr, size, temperature, top - depth, top, BLOCK)
        if (count <= KEEP) & _enough(count, held, top_k, want):
            z = _collect(row_ptr, scratch_ptr, size, temperature, top - depth, KEEP, BLOCK)
            rank = _bisect_kept(z, top, top_k, want)
        else:
            rank = _bisect_row(row_ptr, size, temperature, top, top_k, want, BLOCK)
        floor = tl.maximum(floor, tl.where(rank == 0, float("-inf"), _unrank(rank)))
    return floor


@jit
def _noisy(z, bits, floor, noise):
    """z plus Gumbel noise of 32 random bits; -inf below the floor."""
    u = tl.minimum(bits.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10, 0.99999994)
    # -log(1 - u): near 0, where the largest noise is made, 1 - u would lose u's digits.
    e = tl.where(u < 0.00390625, u * (1 + u * (0.5 + u * 0.33333333)), -tl.log(1 - u))
    return tl.where(z >= floor, z - noise * tl.log(e), float("-inf"))


@jit
def _better(best, token, score, at):
    return tl.where(score > best, score, best), tl.where(score > best, at, token)


@jit
def _sample_kernel(
    logits_ptr,
    logits_stride,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seed_ptr,
    position_ptr,
    scratch_ptr,
    floors_ptr,
    out_ptr,
    size,
    FLOORS: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * logits_stride
    temperature = tl.load(temperature_ptr + row)
    top_k = tl.load(top_k_ptr + row)
    top_p = tl.load(top_p_ptr + row)
    min_p = tl.load(min_p_ptr + row)
    floor = tl.full([], float("-inf"), tl.float32)
    noise = tl.where(temperature > 0, 1.0, 0.0)
    temperature = tl.where(temperature > 0, tl.maximum(temperature, 1e-4), 1.0)
    if (noise > 0) & ((top_k > 0) | (top_p < 1) | (min_p > 0)):
        floor = _floor(row_ptr, scratch_ptr + row * KEEP, size, temperature, top_k, top_p, min_p, KEEP, BLOCK)
    if FLOORS:
        tl.store(floors_ptr + row, floor)
    seed = tl.load(seed_ptr + row)
    position = tl.load(position_ptr + row)
    low = (position & 0xFFFFFFFF).to(tl.uint32)
    high = ((position >> 32) & 0xFFFFFFFF).to(tl.uint32)
    i = tl.arange(0, 1024)
    best = tl.full([1024], float("-inf"), tl.float32)
    token = i
    for start in range(0, size, 4096):
        z0 = _loaded(row_ptr, start, size, temperature, 1024)
        z1 = _loaded(row_ptr, start + 1024, size, temperature, 1024)
        z2 = _loaded(row_ptr, start + 2048, size, temperature, 1024)
        z3 = _loaded(row_ptr, start + 3072, size, temperature, 1024)
        if tl.max(tl.maximum(tl.maximum(z0, z1), tl.maximum(z2, z3)), axis=0) >= floor:
            place = (start // 4 + i).to(tl.uint32)
            r0, r1, r2, r3 = tl.philox(seed, place, low, high, 0)
            best, token = _better(best, token, _noisy(z0, r0, floor, noise), start + i)
            best, token = _better(best, token, _noisy(z1, r1, floor, noise), start + 1024 + i)
            best, token = _better(best, token, _noisy(z2, r2, floor, noise), start + 2048 + i)
            best, token = _better(best, token, _noisy(z3, r3, floor, noise), start + 3072 + i)
    chosen = tl.min(tl.where(best == tl.max(best, axis=0), token, 2147483647), axis=0)
    tl.store(out_ptr + row, chosen.to(tl.int64))


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    *,
    floors: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """A token for each row.

    logits       [rows, vocabulary], float32, float16 or bfloat16; rows may be strided, columns are contiguous. What is
                 forbidden is -inf; penalties, biases and grammars have been applied.
    temperature  [rows] float32; 0 takes the largest logit
    top_k        [rows] int32; 0 or less: off
    top_p        [rows] float32; 1 or more: off
    min_p        [rows] float32; 0 or less: off
    seed         [rows] int64, the noise's key
    position     [rows] int64, of the token that is drawn
    floors       [rows] float32; receives the least logits / temperature that was kept, -inf for all
    out          [rows] int64; made when not given
    """
    per_row = {
        "temperature": (temperature, torch.float32),
        "top_k": (top_k, torch.int32),
        "top_p": (top_p, torch.float32),
        "min_p": (min_p, torch.float32),
        "seed": (seed, torch.int64),
        "position": (position, torch.int64),
        "floors": (floors, torch.float32),
        "out": (out, torch.int64),
    }
    _check(logits, per_row)
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device) if out is None else out
    if not use_triton(logits):
        found, lowest = reference_sample(logits, temperature, top_k, top_p, min_p, seed, position)
        if floors is not None:
            floors.copy_(lowest)
        return tokens.copy_(found)
    rows, size = logits.shape
    if rows == 0:
        return tokens
    defaults = {"KEEP": 2048, "BLOCK": 2048, "num_warps": 8}
    choice = tuned("sample", logits.device, defaults, rows=rows, vocabulary=size)
    scratch = torch.empty(rows, choice["KEEP"], dtype=torch.float32, device=logits.device)
    with on(logits):
        _sample_kernel[(rows,)](
            logits,
            logits.stride(0),
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            position,
            scratch,
            floors,
            tokens,
            size,
            FLOORS=floors is not None,
            **choice,
        )
    return tokens


def _check(logits: torch.Tensor, per_row: dict[str, tuple[torch.Tensor | None, torch.dtype]]) -> None:
    require_floats("logits", logits)
    require(logits.ndim == 2, "logits", "must be [rows, vocabulary]")
    require(0 < logits.shape[1] < 1 << 30, "logits", "must have a vocabulary")
    require(logits.stride(1) == 1, "logits", "columns must be contiguous")
    for name, (tensor, dtype) in per_row.items():
        if tensor is not None:
            require(tensor.shape == logits.shape[:1] and tensor.dtype == dtype, name, f"must be [rows] {dtype}")
            require(tensor.device == logits.device, name, "must be on the logits' device")
            require(tensor.is_contiguous(), name, "must be contiguous")
