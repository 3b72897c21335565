"""The envelope: what goes in comes out, and bytes that anybody else wrote are refused before they are read."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cache.entry import MAGIC, Entry, Foreign, seal, unseal
from trimtab.cache.key import Place, Scope
from trimtab.protocol.messages import Usage

SECRET = b"k" * 32


def entry(**changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "id": "a" * 24,
        "tenant": "acme",
        "namespace": "",
        "partition": b"p" * 32,
        "key": b"k" * 32,
        "kind": "chat",
        "model": "auto",
        "target": "large",
        "form": "stream",
        "body": b"data: {}\n\n",
        "made": 1.5,
        "expires": 3601.5,
        "usage": Usage(prompt=3, completion=4),
        "family": b"f" * 32,
        "question": "Why?",
        "vector": b"\x00" * 768,
        "tags": ("a", "b"),
        "sources": ("s",),
    }
    return Entry(**{**fields, **changes})


def place(of: Entry, **changes: Any) -> Place:
    scope = Scope(changes.pop("tenant", of.tenant), b"", changes.pop("namespace", of.namespace))
    return Place(**{"scope": scope, "partition": of.partition, "key": of.key, "family": of.family, **changes})


@given(st.binary(max_size=2_000), st.text(max_size=50), st.floats(0, 4e9), st.none() | st.binary(max_size=40))
def test_what_goes_in_comes_out(body: bytes, question: str, made: float, family: bytes | None) -> None:
    kept = entry(body=body, question=question, made=made, family=family)
    assert unseal(SECRET, seal(SECRET, kept)) == kept


@given(st.binary(max_size=300))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Foreign):
        unseal(SECRET, data)
    with pytest.raises(Foreign):
        unseal(SECRET, MAGIC + data)


def test_every_damaged_byte_is_noticed() -> None:
    sealed = seal(SECRET, entry())
    for place_ in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place_] ^= 1
        with pytest.raises(Foreign):
            unseal(SECRET, bytes(damaged))
    for length in range(len(sealed)):
        with pytest.raises(Foreign):
            unseal(SECRET, sealed[:length])


def test_another_secret_another_version_and_a_pickle_are_refused() -> None:
    sealed = seal(SECRET, entry())
    for odd in (seal(b"x" * 32, entry()), sealed.replace(MAGIC, MAGIC[:-1] + b"\x01"), pickle.dumps(entry)):
        with pytest.raises(Foreign):
            unseal(SECRET, odd)


@pytest.mark.parametrize(
    "changes", [{"key": b"x" * 32}, {"partition": b"x" * 32}, {"tenant": "zenith"}, {"namespace": "n"}]
)
def test_an_entry_belongs_to_its_own_place_only(changes: dict[str, Any]) -> None:
    kept = entry()
    assert kept.belongs(place(kept))
    assert not kept.belongs(place(kept, **changes))


@pytest.mark.parametrize(
    "changes", [{"family": b"x" * 32}, {"family": None}, {"partition": b"x" * 32}, {"tenant": "z"}, {"namespace": "n"}]
)
def test_another_wording_must_be_of_the_same_family_and_owner(changes: dict[str, Any]) -> None:
    kept = entry()
    assert kept.related(place(kept, key=b"another wording"))
    assert not kept.related(place(kept, **changes))
    assert not entry(family=None).related(place(kept, family=None))
