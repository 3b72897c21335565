"""The GGUF reader: what is written is read; whatever is damaged is a clear error."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.backends.engine.gguf import GGUF
from trimtab.backends.engine.gguf_checkpoint import GgufCheckpoint
from trimtab.protocol.errors import ModelUnavailable


def test_metadata_and_tensors_come_back(tiny):
    file = GGUF(tiny)
    assert file.metadata["llama.context_length"] == 256
    assert file.metadata["tokenizer.ggml.merges"][0] == "h e"
    assert file.shape("blk.0.ffn_down.weight") == (64, 96)
    assert file.kind("token_embd.weight") == "Q8_0"
    weights = file.floats("blk.1.attn_q.weight")
    assert 0.1 < np.std(weights) < 0.15  # it was drawn with 1 / sqrt(64)


def test_a_file_cut_anywhere_is_an_error(tiny, tmp_path):
    data = tiny.read_bytes()
    for length in [0, 3, 4, 20, 100, 5000, len(data) // 2, len(data) - 1]:
        path = tmp_path / "cut.gguf"
        path.write_bytes(data[:length])
        with pytest.raises(ModelUnavailable, match=r"cut short|empty|no GGUF"):
            GGUF(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 9000), byte=st.integers(0, 255))
def test_a_changed_byte_in_the_header_never_crashes(tiny, tmp_path, at, byte):
    data = bytearray(tiny.read_bytes())
    data[at] = byte
    path = tmp_path / "changed.gguf"
    path.write_bytes(data)
    sizes, damaged = {}, None
    try:
        file = GGUF(path)
        sizes = {name: (file.floats(name).size, math.prod(file.shape(name))) for name in file.tensors}
    except ModelUnavailable as e:
        damaged = e
    assert all(read == said for read, said in sizes.values())
    if damaged is not None:
        assert str(tmp_path) not in damaged.message
        assert str(path) in damaged.detail


def test_an_unknown_tensor_type_is_named(tiny, tmp_path):
    data = tiny.read_bytes()
    name = b"blk.0.attn_q.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8
    path = tmp_path / "iq.gguf"
    path.write_bytes(data[:at] + (23).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(ModelUnavailable, match="IQ4_XS"):
        GGUF(path)


def test_another_architecture_is_named(write_gguf):
    path = write_gguf(**{"general.architecture": "mamba"})
    with pytest.raises(ModelUnavailable, match="mamba"):
        GgufCheckpoint(path)


def test_a_matrix_of_the_wrong_shape_is_named(write_gguf):
    path = write_gguf(**{"llama.attention.head_count_kv": 4})
    with pytest.raises(ModelUnavailable, match=r"blk\.0\.attn_k\.weight"):
        GgufCheckpoint(path)


def test_a_missing_tensor_is_named(write_gguf):
    path = write_gguf(**{"llama.block_count": 3})
    with pytest.raises(ModelUnavailable, match=r"blk\.2\."):
        GgufCheckpoint(path)


def test_the_path_is_for_the_operator_not_for_the_caller(tmp_path):
    with pytest.raises(ModelUnavailable) as e:
        GGUF(tmp_path / "none.gguf")
    assert str(tmp_path) not in e.value.message
    assert str(tmp_path) in e.value.detail


def test_values_that_are_no_numbers_are_named(tiny, tmp_path):
    file = GGUF(tiny)
    data = bytearray(tiny.read_bytes())
    at = file.tensors["blk.0.attn_q.weight"].offset
    data[at : at + 2] = b"\xff\x7f"  # the first block's scale: no number
    (tmp_path / "nan.gguf").write_bytes(data)
    with pytest.raises(ModelUnavailable, match=r"blk\.0\.attn_q\.weight holds values"):
        GGUF(tmp_path / "nan.gguf").floats("blk.0.attn_q.weight")
    with pytest.raises(ModelUnavailable, match=r"blk\.0\.attn_q\.weight holds values"):
        GgufCheckpoint(tmp_path / "nan.gguf").four_bits("layers.0.q")


def test_a_tensor_that_we_would_leave_out_is_named(write_gguf, tmp_path):
    data = write_gguf("F32").read_bytes().replace(b"blk.1.attn_q.weight", b"blk.1.attn_q.wxight")
    (tmp_path / "other.gguf").write_bytes(data)
    with pytest.raises(ModelUnavailable, match=r"blk\.1\.attn_q\.weight is missing"):
        GgufCheckpoint(tmp_path / "other.gguf")
    path = write_gguf(**{"llama.block_count": 1})
    with pytest.raises(ModelUnavailable, match=r"blk\.1\..*does not know"):
        GgufCheckpoint(path)
