"""The GGUF reader: what is written is read; whatever is damaged is a clear error."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.backends.engine.gguf import GGUF
from trimtab.backends.engine.model import Model
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
    try:
        file = GGUF(path)
        for name in file.tensors:
            file.floats(name)
    except ModelUnavailable:
        pass


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
        Model(GGUF(path))


def test_a_matrix_of_the_wrong_shape_is_named(write_gguf):
    path = write_gguf(**{"llama.attention.head_count_kv": 4})
    with pytest.raises(ModelUnavailable, match=r"blk\.0\.attn_k\.weight"):
        Model(GGUF(path))


def test_a_missing_tensor_is_named(write_gguf):
    path = write_gguf(**{"llama.block_count": 3})
    with pytest.raises(ModelUnavailable, match=r"blk\.2\."):
        Model(GGUF(path))


def test_the_path_is_for_the_operator_not_for_the_caller(tmp_path):
    with pytest.raises(ModelUnavailable) as e:
        GGUF(tmp_path / "none.gguf")
    assert str(tmp_path) not in e.value.message
    assert str(tmp_path) in e.value.detail
