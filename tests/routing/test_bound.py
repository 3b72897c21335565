"""A calibration's file is refused in words, and its heads speak for the models they are named for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.routing.bound import bind, digest_of, load
from trimtab.routing.calibration_file import FORMAT, read
from trimtab.routing.features import NAMES, features
from trimtab.routing.fitting import fit
from trimtab.routing.heads import FORMAT as WRITTEN
from trimtab.routing.heads import SHIPPED, Calibration, to_json


def calibration(*heads: str) -> Calibration:
    dice = np.random.default_rng(5)
    vectors = dice.normal(size=(80, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    forms = np.array([features(f"question {n} of {n * 7}?") for n in range(80)], dtype=np.float32)
    labels = {head: (vectors[:, at] > 0).astype(np.float32) for at, head in enumerate(heads)}
    return fit(vectors, forms, labels, name="t", embedder="e", about="a test's")


def test_what_ships_is_read_as_any_other() -> None:
    found, digest = load(None)
    assert len(found.heads) == 2
    assert len(digest) == 16
    assert load(SHIPPED)[1] == digest
    assert FORMAT == WRITTEN


@pytest.mark.parametrize(
    ("heads", "own", "small", "large", "fitted"),
    [
        (("small", "large"), True, "small", "large", True),
        (("llama", "gpt-4.1"), True, "llama", "gpt-4.1", True),
        (("gpt-4.1", "llama"), True, "llama", "gpt-4.1", True),
        (("one", "other"), True, "one", "other", True),
        (("one", "other"), False, "one", "other", False),
        (("llama", "other"), True, "llama", None, False),
        (("a", "b", "c"), True, None, None, False),
    ],
)
def test_whose_head_is_whose(
    heads: tuple[str, ...], own: bool, small: str | None, large: str | None, fitted: bool
) -> None:
    bound = bind(calibration(*heads), "d", own, ("cheap", "llama"), ("dear", "gpt-4.1"))
    assert (bound.small, bound.large, bound.fitted) == (small, large, fitted)
    vector = np.eye(12, dtype=np.float32)[0]
    guess = bound.guess(vector, features("question 3 of 21?"), ("cheap", "dear"))
    assert guess.good.keys() == {name for name, head in (("cheap", small), ("dear", large)) if head}


def test_a_vector_of_another_size_is_refused() -> None:
    bound = bind(calibration("small", "large"), "d", True, ("s",), ("l",))
    for vector in (np.ones(5, dtype=np.float32), np.full(12, np.nan, dtype=np.float32)):
        with pytest.raises(ValueError, match="does not read"):
            bound.guess(vector, features("x"), ("s", "l"))


def written(**changes: Any) -> str:
    return json.dumps({**to_json(calibration("small", "large")), **changes})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "is no calibration"),
        ('{"a": 1}', "is no calibration"),
        (written(format=99), "another version"),
        (written(features=["x"]), "other features"),
        (written(features=[*NAMES], heads=3), "without heads"),
        (json.dumps({"format": FORMAT, "heads": {}, "features": NAMES}), "without name, about"),
    ],
)
def test_what_is_no_calibration(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read(path)


def test_no_file_and_a_good_one(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read(path)
    path.write_text(written())
    assert load(path)[0].embedder == "e"


def test_digests_tell_everything_apart() -> None:
    assert len({digest_of("a", "b"), digest_of("ab", ""), digest_of(b"\x0a", "b"), digest_of("a", "b", "")}) == 4
    assert digest_of("a", b"x") == digest_of("a", b"x")
