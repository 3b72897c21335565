"""What must stay whole in prose is found whole, in English, German and Chinese."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.literals import literals

KEPT = {
    "url": ["see https://a.example/b?c=d&e=f#g, please", "at www.example.org.", "mailto:a@b.example"],
    "email": ["write to first.last+tag@mail.example.org.", "ask @someone"],
    "path": ["in /etc/hosts today", "in src/main.rs,", r"in C:\Users\x", "either and/or both"],
    "identifier": [
        "the user_id field",
        "call getUserName there",
        "a plain iPhone",
        "with --force given",
        "use os.path.join",
        "hash deadbeef01",
        "id 550e8400-e29b-41d4-a716-446655440000.",
        "plate B-MW",
        "the HTTP header",
        "std::vector",
        "model gpt-4o-mini",
        "then rm it",
        "x=y",
        "$HOME",
        "order A1B2C3",
        "e.g. so",
    ],
    "number": [
        "about 3.5 kg",
        "some 1,000,000 dollars",
        "12.5%",
        "on 2024-01-31",
        "at 10:45",
        "-5",
        "€20",
        "5kg",
        "3rd",
    ],
    "negation": [
        "it is not so",
        "it isn't so",
        "it isn’t so",
        "never",
        "you must go",
        "only then",
        "a non-empty list",
        "all except one",
        "unless it rains",
        "NOT allowed",
        "at least",
        "es ist nicht so",
        "ohne Geld",
        "außer ihm",
        "du darfst",
        "这不是真的",
        "不得进入",
        "必须完成",
    ],
    "quote": [
        'he said "very nice" then',
        "he said “very nice” then",
        "er sagte „sehr schön“ dann",
        "«так»",
        "他说「好」",
        "a `b c` d",
    ],
    "question": ["It rained. Did it snow? Yes.", "Hat es geschneit?", "为什么？", 'Why "so"?'],
    "name": ["we saw Anna there", "met Anna Maria", "Anna Maria came", "with Dr. Smith again"],
}
WHOLE = {
    "see https://a.example/b?c=d&e=f#g, please": "https://a.example/b?c=d&e=f#g",
    "write to first.last+tag@mail.example.org.": "first.last+tag@mail.example.org",
    "id 550e8400-e29b-41d4-a716-446655440000.": "550e8400-e29b-41d4-a716-446655440000",
    "It rained. Did it snow? Yes.": "Did it snow?",
    "some 1,000,000 dollars": "1,000,000",
    "model gpt-4o-mini": "gpt-4o-mini",
    'he said "very nice" then': '"very nice"',
    "it isn’t so": "isn’t",
    "这不是真的": "不是",
}


def found(text: str) -> set[tuple[str, str]]:
    return {(text[start:end], kind) for start, end, kind in literals(text)}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in KEPT.items() for text in texts])
def test_each_kind_is_told(kind: str, text: str) -> None:
    assert kind in {told for _, told in found(text)}
    assert text not in WHOLE or (WHOLE[text], kind) in found(text)


def test_units_and_dates_stay_with_their_numbers() -> None:
    assert {("3", "number"), ("kg", "number")} <= found("it weighs 3 kg in all")
    assert {("January", "number"), ("2020", "number")} <= found("it was January 2020 then")
    assert {("Oktober", "number"), ("3", "number")} <= found("es war der 3. Oktober")
    assert {("5", "number"), ("million", "number"), ("euros", "number")} <= found("it cost 5 million euros")
    assert ("kg", "number") not in found("kg are a unit")


def test_plain_words_are_free() -> None:
    assert literals("the quick brown fox jumps lazily, and the dog sleeps (as dogs do); good.") == []
    assert literals("The fox jumps. Then he sleeps.\nAnd so on.") == []
    assert literals("well-known facts about it's weather") == []
    assert literals("") == []


alphabet = st.sampled_from(
    [*" \n.,;:!?'\"“”„«»()[]-_/\\@#%€°aAbBüßéI1290不没？。「」`’", "not ", "n't ", "www.", "://", "kg "]
)


@given(st.lists(alphabet, max_size=60))
def test_ranges_are_inside_the_text_and_in_order(made: list[str]) -> None:
    text = "".join(made)
    ranges = literals(text)
    assert ranges == sorted(ranges)
    assert all(0 <= start < end <= len(text) for start, end, _ in ranges)


@given(
    st.lists(st.sampled_from(["walks", "slowly", "green", "of", "the", "house"]), min_size=1, max_size=8),
    st.sampled_from(
        ["not", "don't", "42", "3.5", "user_id", "https://a.example", "HTTP", "never", "a@b.example", "ohne"]
    ),
    st.integers(0, 8),
    st.sampled_from(["", ",", ".", ")", ";", "!", '"']),
)
def test_a_literal_is_found_wherever_it_stands(words: list[str], literal: str, place: int, mark: str) -> None:
    place = min(place, len(words))
    before = " ".join(words[:place])
    text = " ".join([*words[:place], literal + mark, *words[place:]])
    start = len(before) + 1 if before else 0
    assert any(a <= start and start + len(literal) <= b for a, b, _ in literals(text))


def test_a_deadline_is_asked() -> None:
    passed = iter([0.0, *[1.0] * 9])
    with pytest.raises(OutOfTime):
        literals("some words", Deadline(0.5, clock=lambda: next(passed)))


HOSTILE = [
    "a",
    "a@",
    "1",
    "1.",
    "1,",
    "-",
    "'",
    '"',
    '"\n',
    "“",
    "„",
    "«",
    "a-",
    "/",
    "?",
    "? ",
    "A ",
    "A",
    "a\n",
    "n't ",
]
HOSTILE += ["不", "www.", "x://", "(", "`", "a.b ", "1 kg ", ".", "\\", "_", " ", "’", "'a ", "Dr. "]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_text_takes_no_more_than_linear_time(piece: str) -> None:
    """Quadratic would be minutes. Whatever is found lies in the text, and holds something."""
    for text in (piece * (200_000 // len(piece)), "“" + piece * (100_000 // len(piece))):
        assert all(0 <= start < end <= len(text) for start, end, _ in literals(text))
