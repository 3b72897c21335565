from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.routing import length_cues
from trimtab.routing.skeleton import FEWEST, LONGEST_POINT, MOST, SkeletonRouter, against, points

ALWAYS = SkeletonRouter([0.0] * 4, [0.0] * len(length_cues.NAMES), 5.0, 0.5)
VECTOR = np.zeros(4, dtype=np.float32)


@pytest.mark.parametrize(
    "prompt",
    [
        "Write a Python function that sorts a list",
        "Return a JSON object with three tips",
        "Solve x + 3 = 9",
        "How many piano tuners are there?",
        "Translate this list to German",
        "Pretend you are a pirate and list your ships",
        "Name three colours in 10 words",
        "```\nx\n```",
    ],
)
def test_never_for_code_json_maths_and_single_texts(prompt: str) -> None:
    assert not ALWAYS.suits(prompt, VECTOR).suits
    assert ALWAYS.suits(prompt, VECTOR).why


def test_never_with_tools_without_a_vector_or_for_short_answers() -> None:
    prompt = "What are the best ways to learn a language?"
    assert ALWAYS.suits(prompt, VECTOR, 500).suits
    assert not ALWAYS.suits(prompt, VECTOR, 500, structured=True).suits
    assert not ALWAYS.suits(prompt, None, 500).suits
    assert not ALWAYS.suits(prompt, VECTOR, 99).suits


def test_the_shipped_router_reads_vectors_of_the_bundled_embedder() -> None:
    told = SkeletonRouter.shipped().suits(
        "What are the best ways to learn a language?", np.zeros(384, dtype=np.float32)
    )
    assert 0 <= told.score <= 1


def test_a_router_for_other_cues_is_refused() -> None:
    with pytest.raises(ValueError, match="other cues"):
        SkeletonRouter([0.0], [0.0], 0.0, 0.5)


@given(
    st.lists(
        st.text("abc xyz", min_size=1, max_size=30).map(str.strip).filter(bool), min_size=3, max_size=12, unique=True
    )
)
def test_a_clean_list_is_read(made: list[str]) -> None:
    assert points("\n".join(f"{at}. {point}" for at, point in enumerate(made, 1))) == tuple(made)


@pytest.mark.parametrize(
    "skeleton",
    [
        "",
        "Sure!",
        "1. a\n2. b",
        "1. a\n3. b\n4. c",
        "1. a\n2. b\nand so on\n3. c",
        "1. a\n2. a\n3. a",
        "1. a\n2. b\n3. " + "c" * 200,
    ],
)
def test_anything_else_falls_back(skeleton: str) -> None:
    assert points(skeleton) is None


_MARKS = st.sampled_from(["{}. ", "{}. ", "{}) ", "0{}. ", " {}.\t", "7. ", "{}.", "", "٣. "])
_SAID = st.sampled_from(
    ["a", "b", "c d", "A", "e = f", "c" * LONGEST_POINT, "c" * (LONGEST_POINT + 1), "h\x0bi", "", "{"]
)
_LISTS = (
    st.lists(st.tuples(_MARKS, _SAID), max_size=MOST + 2)
    | st.lists(st.tuples(st.just("{}. "), _SAID.filter(str.isprintable)), min_size=FEWEST, max_size=MOST + 2)
).map(lambda lines: "\n".join(mark.format(at) + said for at, (mark, said) in enumerate(lines, 1)))


@settings(max_examples=300)
@given(st.text(max_size=300) | st.text("ab =${1.\n", max_size=30) | _LISTS)
def test_of_any_text_come_whole_lists_or_none(text: str) -> None:
    found = points(text)
    assert found is None or FEWEST <= len({point.lower() for point in found}) == len(found) <= MOST
    assert all(0 < len(point) <= LONGEST_POINT and point in text for point in found or ())
    why = against(text, length_cues.read(text))
    assert why or not set(text) & set("{=$")
