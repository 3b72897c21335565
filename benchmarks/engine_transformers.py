"""Hugging Face transformers at the engine benchmark's work: one JSON command a line, one answer a line.

    python benchmarks/engine_transformers.py MODEL.gguf [--compute float32]

The same weights, taken from the file by the engine's own loader; `generate` with its usual cache. The commands are
those of `engine_llamacpp.py`; many prompts are one padded batch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from trimtab.backends.engine.checkpoint import Checkpoint, open_checkpoint

_NAMES = {
    "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "q": "self_attn.q_proj",
    "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj",
    "up": "mlp.up_proj", "down": "mlp.down_proj",
}  # fmt: skip


def model_of(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    s = checkpoint.shape
    config = LlamaConfig(
        vocab_size=s.vocabulary, hidden_size=s.hidden, intermediate_size=s.mlp, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, head_dim=s.head, rms_norm_eps=s.epsilon,
        max_position_embeddings=s.context, tie_word_embeddings=s.tied,
        rope_parameters={"rope_type": "default", "rope_theta": s.rope.base},
    )  # fmt: skip
    tensors = {"model.embed_tokens.weight": "embedding", "model.norm.weight": "norm"}
    for i in range(s.layers):
        tensors |= {f"model.layers.{i}.{there}.weight": f"layers.{i}.{here}" for here, there in _NAMES.items()}
    state = {there: torch.from_numpy(checkpoint.floats(here)) for there, here in tensors.items()}
    if s.rope.interleaved:
        for name in [n for n in state if n.endswith(("q_proj.weight", "k_proj.weight"))]:
            heads = state[name].view(-1, s.head // 2, 2, state[name].shape[1])
            state[name] = heads.transpose(1, 2).reshape(state[name].shape)
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    return model.to(dtype).eval()


class Worker:
    def __init__(self, model: Any) -> None:
        self._model = model

    @torch.inference_mode()
    def decode(self, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        """CPU seconds of `tokens` further tokens of each prompt: a run of one token more than reading takes, less the
        reading."""
        most = max(map(len, prompts))
        ids = torch.tensor([[0] * (most - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (most - len(p)) + [1] * len(p) for p in prompts])
        return {"seconds": self._seconds(ids, mask, tokens + 1) - self._seconds(ids, mask, 1)}

    def _seconds(self, ids: torch.Tensor, mask: torch.Tensor, count: int) -> float:
        how = GenerationConfig(
            max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        start = time.process_time()
        out = self._model.generate(ids, attention_mask=mask, generation_config=how)
        assert out.shape[1] == ids.shape[1] + count
        return time.process_time() - start

    @torch.inference_mode()
    def score(self, texts: list[list[int]]) -> dict[str, Any]:
        total = 0.0
        for text in texts:
            logs = torch.log_softmax(self._model(torch.tensor([text[:-1]])).logits[0].double(), -1)
            total += float(logs.gather(-1, torch.tensor(text[1:])[:, None]).sum())
        return {"logprob": total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--compute", choices=["bfloat16", "float32"], default="float32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    worker = Worker(model_of(open_checkpoint(given.model), getattr(torch, given.compute)))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(worker, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
