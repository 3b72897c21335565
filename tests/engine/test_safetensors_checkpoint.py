"""Folders of safetensors: the same model as its GGUF file, in one file or in shards; whatever is damaged is named."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from trimtab.backends.engine.checkpoint import open_checkpoint
from trimtab.backends.engine.gguf_checkpoint import GgufCheckpoint
from trimtab.backends.engine.linear import Linear
from trimtab.backends.engine.reference import Reference
from trimtab.backends.engine.template import ChatTemplate
from trimtab.backends.engine.tokenizer import Tokenizer
from trimtab.protocol.errors import ModelUnavailable

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}
NAMES = {
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
TOKENS = [5, 100, 7, 7, 230, 41, 3, 99, 12, 64]


@pytest.fixture(scope="module")
def original(write_gguf):
    return GgufCheckpoint(write_gguf("F32"))


def halves(weight, heads):
    """From neighbouring rotary pairs, as llama's GGUF files have them, to halves, as hubs do."""
    grouped = weight.reshape(heads, -1, 2, weight.shape[-1])
    return grouped.swapaxes(1, 2).reshape(weight.shape)


def tensors_of(checkpoint, dtype=torch.float32):
    out = {"model.embed_tokens.weight": checkpoint.floats("embedding"), "model.norm.weight": checkpoint.floats("norm")}
    for i in range(checkpoint.shape.layers):
        for ours, theirs in NAMES.items():
            weight = checkpoint.floats(f"layers.{i}.{ours}")
            weight = halves(weight, 4 if ours == "q" else 2) if ours in "qk" else weight
            out[f"model.layers.{i}.{theirs}.weight"] = weight
    return {name: torch.from_numpy(np.ascontiguousarray(w)).to(dtype) for name, w in out.items()}


def tokenizer_of(vocabulary):
    added = [{"id": i, "content": vocabulary.texts[i], "special": True} for i in sorted(vocabulary.control)]
    ids = {t: i for i, t in enumerate(vocabulary.texts) if i not in vocabulary.control}
    splits = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, splits]},
        "decoder": splits,
        "model": {"type": "BPE", "vocab": ids, "merges": [" ".join(m) for m in vocabulary.merges]},
    }


@pytest.fixture
def folder(original, tmp_path):
    """folder(tensors, **changes of the config) -> a folder as hubs have them."""

    def write(tensors=None, shards=0, **changes):
        tensors = tensors_of(original) if tensors is None else tensors
        config = CONFIG | {"vocab_size": len(original.vocabulary.texts)} | changes
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_of(original.vocabulary)))
        about = {
            "chat_template": original.template,
            "eos_token": {"content": "<|im_end|>"},
            "bos_token": "<|im_start|>",
        }
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
        if not shards:
            save_file(tensors, tmp_path / "model.safetensors")
            return tmp_path
        where = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
        for file in set(where.values()):
            save_file({n: t for n, t in tensors.items() if where[n] == file}, tmp_path / file)
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
        return tmp_path

    return write


@pytest.mark.parametrize("shards", [0, 3])
def test_the_same_model_as_its_gguf_file(folder, original, shards):
    checkpoint = open_checkpoint(folder(shards=shards))
    assert not checkpoint.shape.rope.interleaved
    assert original.shape.rope.interleaved
    got, wanted = (Reference(c).forward(TOKENS) for c in (checkpoint, original))
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_halves_of_floats_are_read(folder, original, dtype, error):
    checkpoint = open_checkpoint(folder(tensors_of(original, dtype)))
    np.testing.assert_allclose(
        checkpoint.floats("layers.1.down"), original.floats("layers.1.down"), atol=error, rtol=error
    )


def test_one_file_beside_its_config(folder):
    path = folder() / "model.safetensors"
    assert open_checkpoint(path).shape.layers == 2


def test_the_tokenizer_and_the_template_are_the_same(folder, original):
    checkpoint = open_checkpoint(folder())
    ours, theirs = Tokenizer(checkpoint.vocabulary), Tokenizer(original.vocabulary)
    text = "hello world 12 <|im_end|> naïve 🙂"
    assert ours.encode(text) == theirs.encode(text)
    assert (ours.ends, ours.control, ours.begin, ours.end) == (theirs.ends, theirs.control, theirs.begin, theirs.end)
    chat = [{"role": "user", "content": "hello"}]
    written = [ChatTemplate(c.template, ours, lambda: None).encode(chat, 256) for c in (checkpoint, original)]
    assert written[0] == written[1]


def test_tokens_beyond_the_tokenizers_have_rows_but_no_names(folder, original):
    tensors = tensors_of(original)
    table = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = torch.cat((table, table[:3]))
    checkpoint = open_checkpoint(folder(tensors, vocab_size=len(table) + 3))
    assert Tokenizer(checkpoint.vocabulary).size == len(table) + 3


def test_a_head_of_its_own(folder, original):
    tensors = tensors_of(original)
    tensors["lm_head.weight"] = 2 * tensors["model.embed_tokens.weight"]
    checkpoint = open_checkpoint(folder(tensors, tie_word_embeddings=False))
    assert not checkpoint.shape.tied
    np.testing.assert_array_equal(checkpoint.floats("head"), 2 * checkpoint.floats("embedding"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "mamba"}, "mamba.*llama, qwen2, qwen3"),
        ({"model_type": None}, "none"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2\..* is missing"),
        ({"num_key_value_heads": 4}, r"k_proj\.weight is \(32, 64\), not \(64, 64\)"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "longrope"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"vocab_size": 5}, "tokens, not 5"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "bits": 4}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "in 3 bits"),
        ({"quantization_config": "yes"}, "quantized by 'None'"),
    ],
)
def test_what_does_not_fit_is_named(folder, changes, says):
    with pytest.raises(ModelUnavailable, match=says):
        open_checkpoint(folder(**changes))


def test_a_bias_that_the_architecture_has_not_is_never_left_out(folder, original):
    extra = {"model.layers.0.self_attn.o_proj.bias": torch.ones(64)}
    with pytest.raises(ModelUnavailable, match=r"o_proj\.bias, which the engine does not know"):
        open_checkpoint(folder(tensors_of(original) | extra))


def test_another_kind_of_number_is_named(folder, original):
    tensors = tensors_of(original)
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].to(torch.float8_e4m3fn)
    with pytest.raises(ModelUnavailable, match=r"up_proj\.weight in float8"):
        open_checkpoint(folder(tensors)).floats("layers.0.up")


def test_values_that_are_no_numbers_are_named(folder, original):
    tensors = tensors_of(original)
    tensors["model.norm.weight"][3] = float("nan")
    with pytest.raises(ModelUnavailable) as e:
        open_checkpoint(folder(tensors)).floats("norm")
    assert "model.norm.weight" in e.value.detail


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model-00002-of-00002.safetensors"])
@pytest.mark.parametrize("damage", [None, b"", b"\0" * 100, b"[" * 100_000])
def test_a_file_that_is_missing_or_damaged_is_named(folder, name, damage):
    path = folder(shards=2) / name
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(ModelUnavailable, match=name):
        open_checkpoint(path.parent)


def test_a_shard_cut_anywhere_is_an_error(folder):
    path = folder(shards=2) / "model-00001-of-00002.safetensors"
    data = path.read_bytes()
    for length in [1, 8, 9, 200, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ModelUnavailable, match="model-00001-of-00002"):
            open_checkpoint(path.parent)


def test_an_index_that_promises_too_much_or_leads_elsewhere(folder):
    path = folder(shards=2) / "model.safetensors.index.json"
    where = json.loads(path.read_text())["weight_map"]
    path.write_text(json.dumps({"weight_map": where | {"model.ghost": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(ModelUnavailable, match="model-00001"):
        open_checkpoint(path.parent)
    path.write_text(json.dumps({"weight_map": where | {"model.ghost": "../elsewhere.safetensors"}}))
    with pytest.raises(ModelUnavailable, match="index"):
        open_checkpoint(path.parent)


def test_another_tokenizer_is_named(folder):
    path = folder() / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": {"type": "Unigram", "vocab": []}}))
    with pytest.raises(ModelUnavailable, match="Unigram"):
        open_checkpoint(path.parent)


def test_two_models_have_two_fingerprints(folder, original):
    one = open_checkpoint(folder()).fingerprint()
    assert open_checkpoint(folder(rms_norm_eps=1e-6)).fingerprint() != one


# Four bits, packed as the formulas say, value by value.


def gptq(weight, group, order, offset):
    """The tensors of one matrix [outputs, inputs]; input j is in group order[j] // group."""
    outputs, inputs = weight.shape
    groups = np.argsort(order) // group
    scales, zeros, q = four(weight, groups, inputs // group)
    words = np.zeros((inputs // 8, outputs), dtype=np.uint32)
    for j in range(inputs):
        words[j // 8] |= q[:, j].astype(np.uint32) << np.uint32(4 * (j % 8))
    packed = np.zeros((inputs // group, outputs // 8), dtype=np.uint32)
    for o in range(outputs):
        packed[:, o // 8] |= (zeros[o].astype(np.uint32) - offset) % 16 << np.uint32(4 * (o % 8))
    exact = (q - zeros[:, groups].astype(np.float64)) * scales[:, groups]
    return {"qweight": words, "qzeros": packed, "scales": scales.T, "g_idx": groups}, exact


def awq(weight, group):
    outputs, inputs = weight.shape
    groups = np.arange(inputs) // group
    scales, zeros, q = four(weight, groups, inputs // group)
    words = np.zeros((inputs, outputs // 8), dtype=np.uint32)
    packed = np.zeros((inputs // group, outputs // 8), dtype=np.uint32)
    for place, o in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        words |= q[o::8].T.astype(np.uint32) << np.uint32(4 * place)
        packed |= zeros[o::8].T.astype(np.uint32) << np.uint32(4 * place)
    exact = (q - zeros[:, groups].astype(np.float64)) * scales[:, groups]
    return {"qweight": words, "qzeros": packed, "scales": scales.T}, exact


def four(weight, groups, count):
    parts = [weight[:, groups == g] for g in range(count)]
    scales = np.stack([(p.max(1) - p.min(1)) / 14 for p in parts], axis=1).astype(np.float16).astype(np.float64)
    zeros = np.stack([np.clip(np.round(-p.min(1) / scales[:, g]), 1, 15) for g, p in enumerate(parts)], axis=1)
    q = np.clip(np.round(weight / scales[:, groups] + zeros[:, groups]), 0, 15)
    return scales, zeros.astype(np.int64), q.astype(np.int64)


def packed(tensors):
    kinds = {"qweight": np.int32, "qzeros": np.int32, "g_idx": np.int32, "scales": np.float16}
    return {
        name: torch.from_numpy(
            np.ascontiguousarray(x).view(np.int32 if x.dtype == np.uint32 else x.dtype).astype(kinds[name])
        )
        for name, x in tensors.items()
    }


CASES = ["gptq", "gptq act-order", "gptq_v2", "gptq whole", "awq"]


@pytest.mark.parametrize("case", CASES)
def test_matrices_in_four_bits(folder, original, case):
    tensors, exact = tensors_of(original), {}
    for i in range(2):
        for ours, theirs in NAMES.items():
            name = f"model.layers.{i}.{theirs}"
            if "norm" in ours:
                continue
            weight = tensors.pop(name + ".weight").double().numpy()
            group = weight.shape[1] if case == "gptq whole" else 32
            order = (
                np.random.default_rng(i).permutation(weight.shape[1]) if "order" in case else np.arange(weight.shape[1])
            )
            if case == "awq":
                parts, exact[f"layers.{i}.{ours}"] = awq(weight, group)
            else:
                parts, exact[f"layers.{i}.{ours}"] = gptq(weight, group, order, 0 if case == "gptq_v2" else 1)
            tensors |= {f"{name}.{part}": t for part, t in packed(parts).items()}
            tensors[name + ".bias"] = torch.zeros(len(weight))  # as AutoGPTQ writes them
    tensors = {n: t for n, t in tensors.items() if case.startswith("gptq") or not n.endswith("bias")}
    how = {"quant_method": case.split()[0].removesuffix("_v2"), "bits": 4, "checkpoint_format": case.split()[0]}
    how["group_size"] = -1 if case == "gptq whole" else 32
    checkpoint = open_checkpoint(folder(tensors, quantization_config=how))
    for name, wanted in exact.items():
        np.testing.assert_allclose(checkpoint.floats(name), wanted, atol=2e-4)
        x = torch.randn(3, wanted.shape[1], generator=torch.Generator().manual_seed(0))
        product = Linear(checkpoint, (name,), "int8", torch.device("cpu"))
        np.testing.assert_allclose(product(x), x.numpy() @ wanted.T, atol=0.1)
    assert (checkpoint.four_bits("layers.0.q").order is not None) == ("order" in case)
    assert checkpoint.four_bits("embedding") is None


def test_scales_that_are_no_numbers_are_named(folder, original):
    tensors = tensors_of(original)
    name = "model.layers.0.mlp.down_proj"
    parts, _ = gptq(tensors.pop(name + ".weight").double().numpy(), 32, np.arange(96), 1)
    parts["scales"][1, 3] = np.inf
    tensors |= {f"{name}.{part}": t for part, t in packed(parts).items()}
    checkpoint = open_checkpoint(
        folder(tensors, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32})
    )
    with pytest.raises(ModelUnavailable, match=r"down_proj: scales that are no numbers"):
        checkpoint.four_bits("layers.0.down")


def test_groups_that_do_not_fit_are_named(folder, original):
    tensors = tensors_of(original)
    name = "model.layers.0.mlp.down_proj"
    parts, _ = gptq(tensors.pop(name + ".weight").double().numpy(), 32, np.arange(96), 1)
    parts["g_idx"][0] = 1
    tensors |= {f"{name}.{part}": t for part, t in packed(parts).items()}
    how = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    checkpoint = open_checkpoint(folder(tensors, quantization_config=how))
    with pytest.raises(ModelUnavailable, match=r"down_proj: g_idx"):
        checkpoint.floats("layers.0.down")
    checkpoint = open_checkpoint(folder(tensors, quantization_config=how | {"group_size": 16}))
    with pytest.raises(ModelUnavailable, match=r"down_proj: scales"):
        checkpoint.floats("layers.0.down")
