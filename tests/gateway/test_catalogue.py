"""Names and what they mean: models, routes, aliases, fallbacks, in the right order."""

from __future__ import annotations

import pytest

from trimtab.backends.fake import FakeBackend
from trimtab.gateway.catalogue import Catalogue, Pair, Served
from trimtab.protocol.errors import ModelNotFound
from trimtab.protocol.exchange import Target


def served(name: str, *fallbacks: str) -> Served:
    return Served(Target(name, "fake", name), FakeBackend(), fallbacks=fallbacks)


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue(
        [served("small"), served("large", "spare"), served("spare", "small"), served("hidden")],
        {"auto": Pair("small", "large", ("spare",)), "only": Pair("small", "small")},
        {"gpt": "large", "best": "auto"},
        ["hidden"],
    )


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("small", ["small"]),
        ("large", ["large", "spare"]),
        ("gpt", ["large", "spare"]),
        ("auto", ["large", "small", "spare"]),
        ("best", ["large", "small", "spare"]),
        ("only", ["small"]),
        ("hidden", ["hidden"]),
    ],
)
def test_a_name_resolves_to_its_ranked_targets(catalogue: Catalogue, name: str, order: list[str]) -> None:
    assert [target.name for target in catalogue.resolve(name)] == order


def test_an_unknown_name_is_told_what_there_is_but_not_what_is_hidden(catalogue: Catalogue) -> None:
    with pytest.raises(ModelNotFound) as error:
        catalogue.resolve("x" * 10_000)
    assert "large" in error.value.message
    assert "hidden" not in error.value.message
    assert len(error.value.message) < 1000


def test_only_a_real_choice_is_a_pair(catalogue: Catalogue) -> None:
    assert catalogue.pair("auto") == ("small", "large")
    assert catalogue.pair("best") == ("small", "large")
    assert catalogue.pair("only") is None
    assert catalogue.pair("small") is None
