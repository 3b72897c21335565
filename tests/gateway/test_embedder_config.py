"""The `embedder:` section, and how models of `backend: embed` come by it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from trimtab.backends.embed import EmbedOptions
from trimtab.gateway.config import Config
from trimtab.gateway.config_file import check_text
from trimtab.gateway.model_config import EmbedModel


def build(**data: Any) -> Config:
    return Config.model_validate(data, context={"environ": {"HOME": "/home/x"}})


def model(config: Config, name: str = "m") -> EmbedModel:
    found = config.models[name]
    assert isinstance(found, EmbedModel)
    return found


def test_the_default_is_the_bundled_model() -> None:
    assert build().embedder.resolved() == EmbedOptions()


def test_every_key_arrives() -> None:
    written = {"runtime": "torch", "model": "/m", "device": "cuda", "threads": 3, "cache_mb": 5, "max_waiting": 7}
    assert build(embedder=written).embedder.resolved() == EmbedOptions("torch", "/m", "cuda", 3, 5, 7)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ({"runtime": "tensorflow"}, ("embedder", "runtime")),
        ({"threads": 0}, ("embedder", "threads")),
        ({"threads": "2"}, ("embedder", "threads")),
        ({"cache_mb": 0}, ("embedder", "cache_mb")),
        ({"max_waiting": 0}, ("embedder", "max_waiting")),
        ({"model": ""}, ("embedder", "model")),
        ({"model": "a\nb"}, ("embedder", "model")),
        ({"device": "cuda"}, ("embedder",)),
        ({"pooling": "mean"}, ("embedder", "pooling")),
    ],
)
def test_a_fault_is_reported_once_and_where_it_is(written: dict[str, Any], path: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        build(embedder=written, models={"m": {"backend": "embed"}})
    assert [error["loc"] for error in caught.value.errors()] == [path]


def test_a_model_uses_the_configurations_embedder() -> None:
    config = build(embedder={"threads": 3}, models={"m": {"backend": "embed"}, "f": {"backend": "fake"}})
    assert EmbedOptions(**model(config).backend_options()) == config.embedder.resolved() == EmbedOptions(threads=3)


def test_a_model_may_have_one_of_its_own() -> None:
    own = {"backend": "embed", "embedder": {"runtime": "torch", "model": "intfloat/e5-small"}}
    config = build(embedder={"threads": 3}, models={"m": {"backend": "embed"}, "own": own})
    assert model(config, "own").embedder.resolved() == EmbedOptions("torch", "intfloat/e5-small")
    assert model(config).embedder.threads == 3


def test_a_change_of_the_embedder_is_a_change_of_its_models() -> None:
    """A reload carries over the backends of equal sections."""
    before = build(embedder={"threads": 1}, models={"m": {"backend": "embed"}})
    after = build(embedder={"threads": 2}, models={"m": {"backend": "embed"}})
    assert before.models["m"] != after.models["m"]


def test_a_file_with_a_fault_names_its_line() -> None:
    report = check_text("models:\n  m: {backend: embed}\nembedder:\n  runtime: onnx\n  thread: 2\n", "t.yaml")
    [error] = report.errors
    assert "5:" in str(error)
    assert "did you mean 'threads'?" in str(error)
