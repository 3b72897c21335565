"""A tiny llama of random weights in a GGUF file that the tests write themselves: a whole engine without a download."""

import asyncio
import itertools
import struct
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from trimtab.backends.base import Call, Timeouts
from trimtab.backends.engine.backend import EngineBackend
from trimtab.backends.engine.loaded import load
from trimtab.backends.engine.settings import Settings
from trimtab.protocol.messages import Request

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "1 2", "i n"]
TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8}


def byte_letters():
    """The alphabet of byte-level BPE, written out once more: printable bytes stand for themselves."""
    plain = set(range(33, 127)) | set(range(161, 173)) | set(range(174, 256))
    spare = itertools.count(256)
    return [chr(b) if b in plain else chr(next(spare)) for b in range(256)]


def quantise(x, kind):
    """Rows of floats as ggml blocks, the simple way: round to nearest."""
    if kind == "F32":
        return x.astype("<f4").tobytes()
    if kind == "F16":
        return x.astype("<f2").tobytes()
    out = bytearray()
    for block in x.reshape(-1, 32).astype(np.float64):
        if kind == "Q8_0":
            d = np.abs(block).max() / 127
            out += struct.pack("<e", d) + np.round(block / d).astype(np.int8).tobytes()
            continue
        low = block.min() if kind == "Q4_1" else -np.abs(block).max()
        d = (block.max() - low) / 15 if kind == "Q4_1" else -low / 8
        q = np.clip(np.round((block - low) / d), 0, 15).astype(np.uint8)
        out += struct.pack("<ee", d, low) if kind == "Q4_1" else struct.pack("<e", d)
        out += (q[:16] | q[16:] << 4).tobytes()
    return bytes(out)


def _value(v):
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + _string(v)
    items = [_value(x) for x in v]
    return struct.pack("<I", 9) + items[0][:4] + struct.pack("<Q", len(v)) + b"".join(i[4:] for i in items)


def _string(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_bytes(metadata, tensors):
    """`tensors`: name -> (shape with rows first, type number, bytes)."""
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        out += _string(key) + _value(value)
    offset = 0
    for name, (shape, number, data) in tensors.items():
        out += _string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        out += struct.pack("<IQ", number, offset)
        offset += -(-len(data) // 32) * 32
    for _, _, data in tensors.values():
        out += b"\0" * (-len(out) % 32) + data
    return bytes(out)


def tiny_model(kind="Q4_1", seed=0, **changes):
    """Metadata and tensors of a llama with 2 layers, 4 heads, 2 key heads and a context of 256."""
    random = np.random.default_rng(seed)
    tokens = CONTROL + byte_letters() + [m.replace(" ", "") for m in MERGES]
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 256,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    } | changes
    shapes = {"token_embd.weight": (len(tokens), 64), "output_norm.weight": (64,)}
    for i in range(2):
        at = f"blk.{i}."
        shapes |= {at + "attn_norm.weight": (64,), at + "ffn_norm.weight": (64,), at + "attn_q.weight": (64, 64)}
        shapes |= {at + "attn_k.weight": (32, 64), at + "attn_v.weight": (32, 64), at + "attn_output.weight": (64, 64)}
        shapes |= {at + "ffn_gate.weight": (96, 64), at + "ffn_up.weight": (96, 64), at + "ffn_down.weight": (64, 96)}
    tensors = {}
    for name, shape in shapes.items():
        norm = len(shape) == 1
        x = 1 + 0.1 * random.standard_normal(shape) if norm else random.standard_normal(shape) / shape[-1] ** 0.5
        form = "F32" if norm else "Q8_0" if name == "token_embd.weight" else kind
        tensors[name] = (shape, TYPES[form], quantise(x, form))
    return metadata, tensors


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Threads that wait for one another are slow on a machine that is busy with other tests."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def write_gguf(tmp_path_factory):
    """write_gguf(kind, **metadata changes) -> path of a tiny model's file."""
    folder, number = tmp_path_factory.mktemp("gguf"), itertools.count()

    def write(kind="Q4_1", **changes):
        path = folder / f"tiny{next(number)}.gguf"
        path.write_bytes(gguf_bytes(*tiny_model(kind, **changes)))
        return path

    return write


@pytest.fixture(scope="session")
def tiny(write_gguf):
    return write_gguf()


@pytest.fixture(scope="session")
def loaded(tiny):
    return load(tiny, lambda: datetime(2026, 1, 2, tzinfo=UTC), Settings(threads=1))


@pytest.fixture
async def engine(tiny):
    """A running backend with the tiny model."""
    backend = EngineBackend(str(tiny), threads=1, clock=lambda: 1_700_000_000.5)
    await backend.start()
    while not backend.ready():
        await asyncio.sleep(0.005)
    yield backend
    await backend.close()


@pytest.fixture
def ask():
    """ask(kind, **fields) -> a Call, with a one-message chat or a prompt if none is given."""

    def make(kind="chat", *, id="r1", timeouts=None, **fields):
        content = {"messages": [{"role": "user", "content": "hello world"}]} if kind == "chat" else {"prompt": "hello"}
        return Call(
            kind, Request.build(kind, {"model": "tiny", **content, **fields}), id, timeouts=timeouts or Timeouts()
        )

    return make
