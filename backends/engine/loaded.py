"""Opening a model's files: everything that comes out of one checkpoint, ready to answer.

Imports torch, so it is imported on the engine's own thread.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from ...kernels.switch import serves
from ...protocol.errors import ModelUnavailable, TrimtabError
from .attention import Sight
from .checkpoint import open_checkpoint
from .cores import cores
from .draft_model import check_vocabulary
from .draft_model_run import OwnPages
from .engine import Engine, Options
from .grammar_compile import Compiler, Vocabulary
from .memory import PAGE, Memory, pages_for
from .memory_scales import FP8
from .model import Model
from .request import Ask, Sampling
from .schedule import Limits
from .sequence import Job, Task
from .settings import Settings
from .template import ChatTemplate
from .tokenizer import Tokenizer

_FP8_SINCE = (8, 9)  # compute capability
_SINKS = 4  # first tokens that a glance sees beside its window (arXiv 2309.17453)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can answer. `context` in tokens, prompt and answer together."""

    engine: Engine
    tokenizer: Tokenizer
    template: ChatTemplate
    grammars: Compiler
    fingerprint: str

    @property
    def context(self) -> int:
        return self.engine.context


def load(
    path: Path, now: Callable[[], datetime], settings: Settings | None = None, small: Path | None = None
) -> Loaded:
    """Open the weights at `path`, and decode a token with them; `small` are those of the model that drafts for it.
    Raises ModelUnavailable."""
    s = settings or Settings()
    torch.set_num_threads(s.threads or min(4, cores()))
    checkpoint = open_checkpoint(path)
    tokenizer = Tokenizer(checkpoint.vocabulary)
    template = ChatTemplate(checkpoint.template, tokenizer, now)
    model = Model(checkpoint, s.compute, "cuda" if torch.cuda.is_available() else "cpu")
    fp8 = _in_fp8(s, model.device)
    sight = Sight(s.window, s.sinks, marks(s.marks, tokenizer), s.best_pages)
    rows = model.kept
    # What is kept tells native functions from torch's: both are int8, and neither's last bits are the other's.
    form = f"{model.compute} {rows} {s.kv or ''}"
    digest = hashlib.sha256(checkpoint.fingerprint() + form.encode()).hexdigest()
    context = min(s.context or model.shape.context, model.shape.context)
    most = s.most_running * -(-context // PAGE)
    pages = min(most, pages_for(model.shape, s.kv_mb, FP8 if fp8 else rows))
    memory = Memory(model.shape, pages, rows, model.device, fp8=fp8)
    engine = Engine(model, tokenizer, memory, context, time.perf_counter, options(s, sight))
    if small is not None and engine.options.draft:
        engine.guesses.small = _small(small, path.name, tokenizer, s, context, model.device.type)
    if s.graphs and model.device.type == "cuda":
        _capture(engine, s)
    _warm(engine)
    return Loaded(engine, tokenizer, template, Compiler(Vocabulary.of(tokenizer)), f"fp_{digest[:12]}")


def options(s: Settings, sight: Sight) -> Options:
    """What the engine needs to know of its settings."""
    return Options(
        limits=Limits(s.most_running, s.step_tokens, max(1, s.step_tokens // 4)),
        draft=s.draft if s.speculation else 0,
        prefixes=s.prefixes,
        sight=sight,
        glance=None if s.draft_window is None or not s.speculation else Sight(s.draft_window, _SINKS),
    )


def marks(texts: Sequence[str], tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens with these texts. Raises ModelUnavailable when one of them is none, or several."""
    found = set()
    for text in texts:
        placed = tokenizer.placed.get(text)
        ids = tokenizer.encode(text) if placed is None else [placed]
        if len(ids) != 1:
            raise ModelUnavailable(f"{text!r} is {len(ids)} tokens of this model; a global token must be one")
        found.add(ids[0])
    return frozenset(found)


def _small(path: Path, target: str, tokenizer: Tokenizer, s: Settings, context: int, device: str) -> OwnPages:
    """The model that drafts: half as much room for its keys and values as the target has."""
    checkpoint = open_checkpoint(path)
    check_vocabulary(Tokenizer(checkpoint.vocabulary).bytes, path.name, tokenizer.bytes, target)
    model = Model(checkpoint, s.compute, device)
    rows = model.kept
    pages = min(s.most_running * -(-context // PAGE), pages_for(model.shape, max(1, s.kv_mb // 2), rows))
    return OwnPages(model, Memory(model.shape, pages, rows, model.device), tokenizer.size)


def _in_fp8(s: Settings, device: torch.device) -> bool:
    """Whether keys and values are kept in 8 bits. Raises ModelUnavailable where they cannot be."""
    if s.kv is None:
        return False
    if s.best_pages is not None:
        raise ModelUnavailable("kv: fp8 and best_pages exclude each other: pages are chosen by keys as they are")
    able = torch.cuda.get_device_capability(device) >= _FP8_SINCE if device.type == "cuda" else serves(device)
    if not able:
        raise ModelUnavailable(
            "kv: fp8 needs an NVIDIA GPU of compute capability 8.9 or later (Ada, Hopper, Blackwell)"
        )
    return True


def _capture(engine: Engine, s: Settings) -> None:
    """Captured steps of all that passes over a model, where they can be; decoding's now, and their kernels compiled."""
    from .graphs import CudaGraphs, Graphs

    capture, small = CudaGraphs(), engine.guesses.small
    drafting = small.over if isinstance(small, OwnPages) else None
    for over, answers, rows in (
        (engine.forward.over, s.most_running, s.step_tokens),
        (engine.glance, s.most_running, s.most_running),
        (drafting, 1, 1),
    ):
        if over is not None and Graphs.can(over.memory, over.sight):
            over.graphs = Graphs(over.model, over.memory, over.sight, engine.context, capture, rows)
            over.graphs.warm(answers)
            over.graphs.check()


def _warm(engine: Engine) -> None:
    """A model that cannot decode a token must not be said to be ready."""
    ask = Ask(Sampling(temperature=0), seed=0, n=1, most=1, stops=())
    said: list[object] = []
    engine.add(Job([Task([0], ask)], said.append))
    while engine.busy:
        engine.step()
    if any(isinstance(one, TrimtabError) for one in said):
        raise ModelUnavailable("the model is loaded and cannot decode a token; the log says why")
