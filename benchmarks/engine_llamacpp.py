"""llama.cpp at the engine benchmark's work, in an environment of its own: one JSON command a line, one answer a line.

    PYTHON benchmarks/engine_llamacpp.py MODEL.gguf

`{"do": "decode", "prompts": [[ids]], "tokens": n}` decodes n tokens behind each prompt, all prompts as sequences of one
batch, and answers with the CPU seconds of that. Needs cyllama; imports nothing of trimtab.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from cyllama.llama.llama_cpp import (  # type: ignore[import-not-found]
    LlamaBatch,
    LlamaContext,
    LlamaContextParams,
    LlamaModel,
    LlamaModelParams,
    LlamaSampler,
    LlamaSamplerChainParams,
    disable_logging,
    ggml_backend_load_all,
)

_ROOM = 512  # tokens a sequence may have, and rows a call may compute


def main() -> None:
    disable_logging()
    ggml_backend_load_all()
    model = LlamaModel(sys.argv[1], LlamaModelParams())
    sampler = LlamaSampler(LlamaSamplerChainParams())
    sampler.add_greedy()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        seconds = decode(model, sampler, command["prompts"], command["tokens"])
        print(json.dumps({"seconds": seconds}), flush=True)


def context(model: Any, sequences: int) -> Any:
    params = LlamaContextParams()
    params.n_ctx = _ROOM * sequences
    params.n_batch = params.n_ubatch = _ROOM
    params.n_seq_max = sequences
    params.n_threads = params.n_threads_batch = 1
    return LlamaContext(model, params)


def decode(model: Any, sampler: Any, prompts: list[list[int]], tokens: int) -> float:
    """An answer's end does not end it, so that every run computes as much."""
    ctx = context(model, len(prompts))
    batch = LlamaBatch(n_tokens=_ROOM, embd=0, n_seq_max=len(prompts))
    said = []
    for i, prompt in enumerate(prompts):
        batch.clear()
        for at, token in enumerate(prompt):
            batch.add(token, at, [i], at == len(prompt) - 1)
        ctx.decode(batch)
        said.append(sampler.sample(ctx, len(prompt) - 1))
    start = time.process_time()
    for n in range(tokens):
        batch.clear()
        for i, prompt in enumerate(prompts):
            batch.add(said[i], len(prompt) + n, [i], True)
        ctx.decode(batch)
        said = [sampler.sample(ctx, i) for i in range(len(prompts))]
    return time.process_time() - start


if __name__ == "__main__":
    main()
