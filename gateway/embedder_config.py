"""The `embedder:` section: which model makes vectors for the pruner, the cache, the router and /v1/embeddings.

Knows the shape only; backends/embed.py opens an embedder from what `resolved` returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from ..backends.embed import Device, EmbedOptions, Runtime
from .section import Count, Section


def _place(text: str) -> str:
    if not text or len(text) > 4096 or not text.isprintable():
        raise ValueError("must be a folder or the name of a model")
    return text


class EmbedderConfig(Section):
    """`onnx` runs the bundled int8 MiniLM or a folder with model.onnx and tokenizer.json; `torch` whatever
    sentence-transformers loads by name or folder. Left out, `threads` are up to four of this machine's."""

    runtime: Runtime = "onnx"
    model: Annotated[str, Field(strict=True), AfterValidator(_place)] | None = None
    device: Device = "cpu"
    threads: Annotated[int, Field(strict=True, ge=1, le=256)] | None = None
    cache_mb: Annotated[int, Field(strict=True, ge=1, le=65_536)] = 64
    max_waiting: Count = 20_000  # texts; more are refused (503), or go unpruned

    @model_validator(mode="after")
    def _device_is_served(self) -> Self:
        if self.device == "cuda" and self.runtime == "onnx":
            raise ValueError("device: cuda needs runtime: torch")
        return self

    def resolved(self) -> EmbedOptions:
        """As backends/embed.py wants it."""
        return EmbedOptions(self.runtime, self.model, self.device, self.threads, self.cache_mb, self.max_waiting)


def with_embedder(written: dict[str, Any]) -> dict[str, Any]:
    """The configuration as written, with each model of `backend: embed` that has no embedder of its own given this one.

    An `embedder:` section with an error is left where it is, to be reported once and there.
    """
    models = written.get("models")
    if not isinstance(models, Mapping) or written.get("embedder") is None:
        return written
    try:
        embedder = EmbedderConfig.model_validate(written["embedder"])
    except ValidationError:
        return written
    return {**written, "models": {name: _given(model, embedder) for name, model in models.items()}}


def _given(model: Any, embedder: EmbedderConfig) -> Any:
    if isinstance(model, dict) and model.get("backend") == "embed" and model.get("embedder") is None:
        return {**model, "embedder": embedder}
    return model
