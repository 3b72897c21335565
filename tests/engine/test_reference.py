"""The plain forward pass and the reading of folders against the library that the models were published with."""

import os

import pytest
import torch

from trimtab.backends.engine import safetensors_checkpoint
from trimtab.backends.engine.checkpoint import Vocabulary, open_checkpoint
from trimtab.backends.engine.reference import Reference

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

BASE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 256,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES = {
    "llama": ("Llama", {"rope_theta": 1e4}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "llama 3.1": ("Llama", {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 64}}),
    "linear": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "qwen2": ("Qwen2", {}),
    "yarn": ("Qwen2", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case, tmp_path, monkeypatch):
    name, changes = CASES[case]
    torch.manual_seed(0)
    model = getattr(transformers, name + "ForCausalLM")(getattr(transformers, name + "Config")(**BASE | changes)).eval()
    with torch.no_grad():
        for p in model.parameters():  # the usual beginnings are ones and zeros, which would hide a forgotten tensor
            p.copy_(0.15 * torch.randn_like(p) if p.ndim > 1 else 1 + 0.3 * torch.randn_like(p))
        model.save_pretrained(tmp_path)
        tokens = torch.randint(0, 100, (1, 200))
        wanted = model(tokens).logits[0]
    empty = Vocabulary([], [], "gpt-2", frozenset())
    monkeypatch.setattr(safetensors_checkpoint, "vocabulary_in", lambda *_: empty)
    got = Reference(open_checkpoint(tmp_path)).forward(tokens[0].tolist())
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
