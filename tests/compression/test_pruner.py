"""Selection: order and bytes kept, nothing below the floor, what belongs together stays together."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.compression.conformal import Calibration
from trimtab.compression.evidence import embedded_text
from trimtab.compression.material import MARK, Material, pruned_before, read, without
from trimtab.compression.pruner import Aim, Selection, select
from trimtab.protocol.tokens import estimate

CALIBRATION = Calibration((0.5, 0.9, 0.99), (0.01, 2.0, 4.0), -100.0)

FILLER = (
    "The harbour was rebuilt after the storm of that year.",
    "Many visitors come for the market on the first Sunday.",
    "Local bakeries sell a kind of bread with caraway seeds.",
    "A railway line reaches the valley from the north side.",
    "The town hall burned down twice within a decade then.",
    "Its football club plays in the third division today.",
    "Farmers grow barley and hops on the southern slopes.",
    "An old mill houses a small museum of printing presses.",
)


def numbered(documents: list[tuple[str, str]]) -> str:
    return "\n\n".join(f"Document [{i}] (Title: {t}) {body}" for i, (t, body) in enumerate(documents, 1))


def pick(hashed: Any, material: Material, query: str, **changes: Any) -> Selection:
    aim = Aim(**{"recall": 0.5, "floor": 0.0, **changes.pop("terms", {})})
    vectors = hashed.vectors([query, *(embedded_text(unit) for unit in material.units)])
    return select(material, query, vectors[0], vectors[1:], aim, changes.get("calibration", CALIBRATION))


def prune(hashed: Any, text: str, query: str, *, results: bool = False, **terms: Any) -> str:
    material = read([text], results=results)
    selection = pick(hashed, material, query, terms=terms)
    return without(material.passages[0], material.units, selection.kept)


def towns(*extra: str, at: int = 3) -> str:
    """Eight documents of filler about as many towns; `extra` sentences in one of them."""
    documents = []
    for i in range(8):
        body = [f"{line[:-1]} in Town{i}." for line in FILLER[i:] + FILLER[:i]][:5]
        if i == at:
            body[2:2] = extra
        documents.append((f"Town{i}", " ".join(body)))
    return "Read these.\n\n" + numbered(documents) + "\n\nQuestion: as above?"


FACT = "The astronomer Ludovika Brandt discovered the comet Halvorsen in 1931."


def test_the_evidence_stays_and_most_else_goes(hashed_words: Any) -> None:
    text = towns(FACT)
    out = prune(hashed_words, text, "Who discovered the comet Halvorsen?")
    assert FACT in out
    assert estimate(out) < 0.4 * estimate(text)
    assert out.startswith("Read these.\n\n")
    assert out.endswith("\n\nQuestion: as above?")
    assert "Document [4] (Title: Town3)" in out


def test_neighbouring_documents_that_go_leave_one_mark(hashed_words: Any) -> None:
    out = prune(hashed_words, towns(FACT, at=7), "Who discovered the comet Halvorsen?")
    assert f"{MARK}\n\n{MARK}" not in out


@pytest.mark.parametrize("floor", [0.0, 0.2, 0.5, 0.8, 0.95])
def test_never_below_the_floor(hashed_words: Any, floor: float) -> None:
    text = towns(FACT)
    out = prune(hashed_words, text, "Who discovered the comet Halvorsen?", floor=floor)
    assert estimate(out) >= floor * estimate(text)


def test_at_least_three_units(hashed_words: Any) -> None:
    material = read([towns(FACT)], results=False)
    sharp = Calibration((0.5,), (0.0,), -100.0)
    selection = pick(hashed_words, material, "comet Halvorsen", calibration=sharp)
    assert sum(selection.kept) >= 3


def test_the_sentence_before_a_pronoun_stays(hashed_words: Any) -> None:
    lead = "Ludovika Brandt was born into a family of clockmakers."
    text = towns(lead, "She discovered the comet Halvorsen while she was a student at the observatory.")
    out = prune(hashed_words, text, "Who discovered the comet Halvorsen at the observatory as a student?")
    assert f"{lead} She discovered" in out


def test_headings_stay_over_what_is_kept_and_go_with_the_rest(hashed_words: Any) -> None:
    sections = "".join(f"## Part {i}\n\n{' '.join(FILLER)}\n\n" for i in range(4))
    text = f"<document>\n# Report\n\n{sections}## Finds\n\n{FACT}\n</document>"
    out = prune(hashed_words, text, "Who discovered the comet Halvorsen?")
    assert "## Finds\n\n" + FACT in out
    assert "# Report" in out
    assert "## Part 2" not in out


def test_the_second_hop_follows_a_name(hashed_words: Any) -> None:
    first = "The comet Halvorsen was discovered by Ludovika Brandt in a cold winter."
    second = "Ludovika Brandt grew up over a clock shop by the river Isen."
    documents = [(f"Town{i}", " ".join(FILLER[i:] + FILLER[:i])) for i in range(8)]
    documents[1] = ("Comets", first)
    documents[6] = ("People", second)
    out = prune(hashed_words, numbered(documents), "Where did the discoverer of the comet Halvorsen grow up?")
    assert first in out
    assert second in out


def test_a_repeated_passage_stays_once(hashed_words: Any) -> None:
    second = "The comet Halvorsen comes back every forty years."
    bodies = [f"{FILLER[i]} {FACT} {second} {FILLER[(i + 1) % 8]}" for i in range(8)]
    text = "\n\n".join(f"Document {i}: {body}" for i, body in enumerate(bodies, 1))
    out = prune(hashed_words, text, "Who discovered the comet Halvorsen?")
    assert out.count(FACT) == 1
    assert out.count(second) == 1


def test_what_is_said_in_the_same_words_of_something_else_is_no_repetition(hashed_words: Any) -> None:
    """What a short sentence speaks of, its heading or its neighbours say."""
    offices = ["Rome", "Vienna", "Lisbon", "Prague", "Oslo", "Athens"]
    sections = [f"## {town} office\n\n- Manager: {FILLER[i]}\n- Fax: on request only" for i, town in enumerate(offices)]
    out = prune(hashed_words, "<document>\n" + "\n\n".join(sections) + "\n</document>", "Fax of the Prague office")
    prague = out[out.index("## Prague") :]
    assert prague[: prague.find("##", 2)].count("- Fax: on request only") == 1
    names = ["Adler", "Brandt", "Corvin", "Dorn", "Erben"]
    shops = [f"Document {i}: {FILLER[i]} {name} sells lamps. It is shut on Mondays." for i, name in enumerate(names, 1)]
    out = prune(hashed_words, "\n\n".join(shops), "On which days is the shop of Corvin shut?")
    assert "Corvin sells lamps. It is shut on Mondays." in out


@pytest.mark.parametrize(
    ("query", "one", "other"),
    [
        (
            "costs up to the port",
            "The seller bears all costs up to the port.",
            "The buyer bears all costs up to the port.",
        ),
        (
            "运至装运港的费用以及保险费用",
            "卖方承担货物运至装运港的费用以及保险费用。",
            "买方承担货物运至装运港的费用以及保险费用。",
        ),
        (
            "where does it hold for the sample",
            "It holds where p < 0.05 for the sample.",
            "It holds where p > 0.05 for the sample.",
        ),
        ("what the store keeps it at", "The store keeps it at -18 °C or so.", "The store keeps it at 18 °C or so."),
    ],
)
def test_what_vectors_cannot_tell_apart_is_no_repetition(query: str, one: str, other: str) -> None:
    """An embedder that reads no Chinese gives sentences of buyers and sellers one vector."""
    lines = [f"{line} {said}" for line, said in zip(FILLER, (one, other) * 4, strict=True)]
    material = read(["\n\n".join(f"Document {i}: {line}" for i, line in enumerate(lines, 1))], results=False)
    vectors = np.zeros((len(material.units) + 1, 8), dtype=np.float32)
    vectors[:, 0] = 1.0
    chosen = select(material, query, vectors[0], vectors[1:], Aim(0.5, 0.3), CALIBRATION)
    said = without(material.passages[0], material.units, chosen.kept)
    assert one in said
    assert other in said


def orders(n: int = 60) -> str:
    """A table in which one row names Fennimore and every sixth one Acme."""
    rows = [f"{1000 + i},{'Acme' if i % 6 == 0 else 'Bolt'} {i},lamp,2024-0{1 + i % 8}-11" for i in range(n)]
    rows[37] = "1037,Fennimore,trombone,2024-05-13"
    return "id,customer,product,date\n" + "\n".join(rows)


def test_every_row_that_names_what_is_asked_about_stays(hashed_words: Any) -> None:
    text = orders()
    out = prune(hashed_words, text, "What did Acme buy?", results=True)
    assert {line for line in text.split("\n") if "Acme" in line} <= set(out.split("\n"))
    assert estimate(out) < estimate(text)
    out = prune(hashed_words, text, "When did Fennimore order a trombone?", results=True)
    assert "id,customer,product,date" in out
    assert "1037,Fennimore,trombone,2024-05-13" in out
    assert estimate(out) < estimate(text)


@pytest.mark.parametrize("query", ["Which orders came before May?", "Why is revenue falling?", "which is the cheapest"])
def test_rows_stay_where_none_of_them_is_named(hashed_words: Any, query: str) -> None:
    assert prune(hashed_words, orders(), query, results=True) == orders()


def test_the_rows_of_a_page_stay_where_they_are_asked_about_together(hashed_words: Any) -> None:
    rows = "\n".join(
        f"| {name} | {90 + 7 * i % 40} | garden |" for i, name in enumerate(["Adler", "Bellevue", "Corvin", "Dorn"] * 3)
    )
    prose = " ".join(FILLER * 4)
    text = f"# Rome\n\n{prose}\n\n| Name | Price | View |\n|---|---|---|\n{rows}\n\nHotels fill early in Rome."
    out = prune(hashed_words, text, "Which is the cheapest hotel in Rome?", results=True)
    assert f"| Name | Price | View |\n|---|---|---|\n{rows}" in out
    assert estimate(out) < estimate(text)


def test_sentences_that_differ_in_a_number_or_a_not_are_no_duplicates(hashed_words: Any) -> None:
    variants = [
        "The comet Halvorsen has been seen from the tower of the old observatory in 1931 by many people there.",
        "The comet Halvorsen has been seen from the tower of the old observatory in 1932 by many people there.",
        "The comet Halvorsen has not been seen from the tower of the old observatory in 1931 by many people there.",
    ]
    documents = [(f"Town{i}", FILLER[i]) for i in range(8)] + [("X", " ".join(variants))]
    text = f"{numbered(documents)}"
    out = prune(hashed_words, text, "When has the comet Halvorsen been seen from the observatory tower?")
    assert all(variant in out for variant in variants)


def log(n: int) -> str:
    lines = [f"2024-05-01 10:{i // 60:02}:{i % 60:02} INFO request {i} served from shard {i % 7}" for i in range(n)]
    lines[n // 2] = "2024-05-01 11:00:00 ERROR disk /dev/sdb is unreadable"
    lines[n // 3] = "2024-05-01 11:00:01 INFO user zebra logged in"
    return "\n".join(lines)


def test_errors_stay_whatever_is_asked(hashed_words: Any) -> None:
    out = prune(hashed_words, log(120), "user zebra login", results=True)
    assert "ERROR disk" in out
    assert "user zebra" in out
    assert out.count("\n") < 60


def test_a_not_that_is_asked_about_stays(hashed_words: Any) -> None:
    rule = "Lodgers must not cook in their rooms at night."
    text = towns("Lodgers cook what they like and lodgers cook together in the rooms.", rule)
    out = prune(hashed_words, text, "May lodgers not cook in their rooms?")
    assert rule in out


def test_what_the_caller_wants_kept_stays(hashed_words: Any) -> None:
    wanted = "caraway seeds in Town1"
    text = towns(FACT)
    assert wanted not in prune(hashed_words, text, "Who discovered the comet Halvorsen?")
    assert wanted in prune(hashed_words, text, "Who discovered the comet Halvorsen?", strings=(wanted,))


def test_nothing_relevant_keeps_everything(hashed_words: Any) -> None:
    material = read([towns(FACT)], results=False)
    strict = Calibration((0.5,), (0.5,), 1e9)
    selection = pick(hashed_words, material, "zzz", calibration=strict)
    assert selection.why == "nothing scored as relevant"
    assert all(selection.kept)


def rows(n: int) -> list[dict[str, Any]]:
    return [{"id": i, "name": f"item {i}", "note": FILLER[i % 8], "price": i / 4, "error": None} for i in range(n)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("wrap", [False, True])
def test_json_still_parses_with_the_kept_records_equal(hashed_words: Any, indent: int | None, wrap: bool) -> None:
    values = rows(30)
    values[17]["note"] = FACT
    whole: Any = {"total": 30, "results": values, "next": None} if wrap else values
    out = prune(hashed_words, json.dumps(whole, indent=indent), "Halvorsen comet discovered", results=True)
    parsed = json.loads(out)
    found = parsed["results"] if wrap else parsed
    kept = [record for record in found if "_omitted" not in record]
    assert 3 <= len(kept) < 20
    assert all(values[record["id"]] == record for record in kept)
    assert values[17] in kept
    assert [record["id"] for record in kept] == sorted(record["id"] for record in kept)
    assert len(kept) + sum(record.get("_omitted", 0) for record in found) == 30
    assert not wrap or (parsed["total"], parsed["next"]) == (30, None)


def test_json_lines_still_parse(hashed_words: Any) -> None:
    values = rows(30)
    values[4]["note"] = FACT
    out = prune(hashed_words, "\n".join(map(json.dumps, values)), "Halvorsen comet discovered", results=True)
    found = [json.loads(line) for line in out.splitlines()]
    assert values[4] in found
    assert sum(record.get("_omitted", 1) for record in found) == 30


def test_two_arrays_are_never_run_together(hashed_words: Any) -> None:
    whole = {"a": rows(9), "between": "x", "b": rows(9), "c": [{"name": FACT}, {"name": "comet"}]}
    out = json.loads(prune(hashed_words, json.dumps(whole), "Halvorsen comet discovered", results=True))
    assert list(out) == ["a", "between", "b", "c"]
    assert all(isinstance(out[name], list) for name in "abc")


SENTENCES = st.lists(st.sampled_from([*FILLER, FACT, "It is so.", "这是一句话。", "Not here."]), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=st.lists(SENTENCES, min_size=4, max_size=10),
    query=st.sampled_from(["Who discovered the comet?", "bread with caraway", "must not", "这"]),
    floor=st.sampled_from([0.0, 0.3, 0.7]),
)
def test_order_bytes_determinism_and_idempotence(
    hashed_words: Any, documents: list[list[str]], query: str, floor: float
) -> None:
    text = "Rules first.\n\n" + numbered([(f"T{i}", " ".join(body)) for i, body in enumerate(documents)])
    material = read([text], results=False)
    selection = pick(hashed_words, material, query, terms={"floor": floor})
    out = without(material.passages[0], material.units, selection.kept)
    assert out == prune(hashed_words, text, query, floor=floor)
    at = 0
    for unit, kept in zip(material.units, selection.kept, strict=True):
        if kept:
            at = out.index(unit.text, at) + len(unit.text)
    pieces = out.split(MARK)
    assert all(piece in text for piece in pieces)
    assert pruned_before(out) == (out != text)
    assert estimate(out) <= estimate(text)
    assert out.startswith("Rules first.\n\n")
