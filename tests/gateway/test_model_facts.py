"""What a model can do at all, from the file or from litellm's table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.gateway import model_facts as facts
from trimtab.gateway.config import Config
from trimtab.gateway.model_facts import ModelFacts, model_facts

TABLE = {
    "sample_spec": {"max_input_tokens": "set to something", "mode": "one of: chat, embedding"},
    "tiny-1": {"max_input_tokens": 4096, "max_output_tokens": 512, "mode": "chat", "supports_vision": True},
    "able-1": {
        "max_input_tokens": 128000.0,
        "mode": "chat",
        "supports_function_calling": True,
        "supports_response_schema": True,
    },
    "vectors-1": {"max_input_tokens": 512, "mode": "embedding"},
}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model_prices_and_context_window_backup.json").write_text(json.dumps(TABLE))
    monkeypatch.setattr(facts, "_folder", lambda: str(tmp_path))
    return tmp_path


def of(**written: Any) -> ModelFacts:
    config = Config.model_validate({"models": {"m": {"backend": "openai", **written}}}, context={"environ": {}})
    model = config.models["m"]
    return model_facts(model, model.upstream_name("m"))


def test_the_table_fills_what_the_file_leaves_out(table: Path) -> None:
    assert of(model="tiny-1") == ModelFacts(4096, 512, frozenset({"vision"}))
    assert of(model="openai/able-1") == ModelFacts(128000, None, frozenset({"tools", "schema", "json"}))
    assert of(model="tiny-1", context_tokens=100, supports=["tools"]) == ModelFacts(100, None, frozenset({"tools"}))
    assert of(model="vectors-1") == of(model="sample_spec") == of(model="unheard-of") == ModelFacts()


def test_a_table_that_cannot_be_read_is_none(table: Path) -> None:
    (table / "model_prices_and_context_window_backup.json").write_text("{")
    facts._table.cache_clear()
    assert of(model="tiny-1") == ModelFacts()


def test_without_litellm_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_folder", lambda: None)
    assert of(model="tiny-1") == ModelFacts()


def test_what_a_model_can_do_is_not_who_it_is() -> None:
    """A cache must not be emptied because a file says more than it did."""
    written = {"models": {"m": {"backend": "fake"}, "n": {"backend": "fake", "context_tokens": 9, "supports": []}}}
    models = Config.model_validate(written, context={"environ": {}}).models
    assert models["m"].epoch == models["n"].epoch
    assert model_facts(models["n"], "n") == ModelFacts(9, None, frozenset())


def test_the_bundled_engine_keeps_schemas_and_the_file_may_say_more(table: Path) -> None:
    assert of(backend="engine", weights="w.gguf").supports == {"json", "schema"}
    assert of(backend="engine", weights="w.gguf", supports=["tools"]).supports == {"tools"}
