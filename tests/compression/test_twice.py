"""`prune` and `compress` one after the other, and what came out sent through both again: nothing may change any more.

The texts are ones that the lossless tier rewrites, and the threshold of relevance is set so that each is only just
left whole: a second look that saw another text would decide otherwise.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from trimtab.compression.compress import Compress
from trimtab.compression.conformal import Calibration
from trimtab.compression.material import pruned_before
from trimtab.compression.policy import CompressionPolicy, ContextPolicy
from trimtab.compression.prefix import PrefixMemory
from trimtab.compression.prune import Prune
from trimtab.protocol.errors import Overloaded
from trimtab.protocol.exchange import Caller, Exchange, Price, Receipt, ReceiptLine, Target, Tenant
from trimtab.protocol.messages import Request

CONTEXT = ContextPolicy(enabled=True, recall=0.5, deadline_ms=60_000.0)
POLICY = CompressionPolicy(context=CONTEXT, floor=0.2, deadline_ms=60_000.0)
PRICE = Price(2_000_000, 1_000_000, 8_000_000, known=True)
QUESTION = "Who discovered the comet Halvorsen near Zürich?"
BRIEF = "Be brief. " * 1000  # more than a provider's cache asks for, whatever goes of the rest
FACT = "Ludovika Brandt discovered the comet Halvorsen near Zürich in 1931."
WORDS = ("harbour", "market", "bakery", "railway", "museum", "brewery", "theatre", "mill", "tower", "Köln", "北京")


def sentences(count: int, chance: random.Random) -> list[str]:
    made = [f"The {' '.join(chance.choices(WORDS, k=9))} stands there." for _ in range(count)]
    made[count // 2] = FACT
    return made


def pretty(chance: random.Random) -> str:
    return json.dumps([{"id": i, "text": said} for i, said in enumerate(sentences(40, chance))], indent=4)


def escaped(chance: random.Random) -> str:
    return json.dumps({"results": [{"snippet": f"{said} {said[:40]}"} for said in sentences(30, chance)]})


def log(chance: random.Random) -> str:
    lines = [f"2026-01-02 10:00:{i % 60:02} INFO {said}" for i, said in enumerate(sentences(40, chance))]
    return "\n".join(line for line in lines for _ in range(chance.choice([1, 1, 3])))


def trailing(chance: random.Random) -> str:
    """Each gap takes out a token: more than the 64 that these prices ask for, so that the gate lets it pass."""
    return "\n\n\n\n\n".join(f"{said}   " for said in sentences(80, chance))


def read_twice(chance: random.Random) -> str:
    told = log(chance)
    return f"{told}\n\n{told}\n\n{trailing(chance)}"


def result(text: str) -> list[dict[str, Any]]:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"about": "comet"}'}}
    return [
        {"role": "system", "content": BRIEF},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": text},
    ]


def asked(text: str) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": BRIEF},
        {"role": "user", "content": f"<documents>\n{text}\n</documents>\n\n{QUESTION}"},
    ]


def question_with_data(text: str) -> list[dict[str, Any]]:
    """The user's own words hold data that is rewritten; the result that follows is scored by them."""
    rows = json.dumps({"seen": [{"at": n * 7919, "by": None, "with": 1.50 * n} for n in range(12)]}, indent=4)
    messages = result(text)
    messages[1] = {"role": "user", "content": f"{QUESTION}\n\n{rows}"}
    return messages


def exchange(body: bytes, policy: CompressionPolicy = POLICY, **facts: Any) -> Exchange:
    request = Request.parse("chat", body)
    caller = Caller(Tenant("t", policies={CompressionPolicy: policy}))
    made = Exchange("r", request, request, caller, Receipt("r", "t", 0.0), [], 0.0, facts=facts)
    made.targets = (Target("m", "openai", "gpt-4o", PRICE),)
    return made


async def through(
    messages: list[Any], least: float, policy: CompressionPolicy, embedder: Any, **facts: Any
) -> tuple[Any, Exchange]:
    """Both stages, with nothing remembered."""
    body = json.dumps({"model": "m", "messages": messages, "max_tokens": 64}, ensure_ascii=False).encode()
    made = exchange(body, policy, **facts)
    prune = Prune(embedder, calibration=Calibration((0.5, 0.9, 0.99), (0.5, 1.5, 4.0), least))
    compress = Compress()
    try:
        await prune(made)
        await compress(made)
    finally:
        prune.close()
        compress.close()
    return made.working.get("messages"), made


def pruned(messages: list[Any]) -> bool:
    return any(pruned_before(json.dumps(message["content"]).replace('\\"', '"')) for message in messages)


async def only_just_whole(messages: list[Any], policy: CompressionPolicy, embedder: Any) -> float:
    """The least threshold, about, at which nothing is pruned."""
    low, high = -100.0, 100.0
    assert pruned((await through(messages, low, policy, embedder))[0])
    while high - low > 1e-3:
        middle = (low + high) / 2
        if pruned((await through(messages, middle, policy, embedder))[0]):
            low = middle
        else:
            high = middle
    return high


Texts = Callable[[random.Random], str]


@pytest.mark.parametrize("place", [result, asked, question_with_data])
@pytest.mark.parametrize("text", [pretty, escaped, log, trailing, read_twice])
async def test_what_was_left_whole_stays_whole(hashed_words: Any, text: Texts, place: Callable[[str], Any]) -> None:
    messages = place(text(random.Random(1)))
    least = await only_just_whole(messages, POLICY, hashed_words)
    once, first = await through(messages, least, POLICY, hashed_words)
    assert once != messages, "the lossless tier had something to do"
    assert not pruned(once)
    assert first.receipt.lines[0].did == "left alone"
    twice, _ = await through(once, least, POLICY, hashed_words)
    assert twice == once


@pytest.mark.parametrize("text", [pretty, escaped, log, trailing])
async def test_what_an_earlier_turn_left_whole_stays_so_when_it_comes_back_rewritten(
    hashed_words: Any, text: Texts
) -> None:
    """`prune` leaves it whole because it went whole before; what `compress` makes of it, `prune` has to know again."""
    memory = PrefixMemory()
    prune = Prune(hashed_words, memory=memory, calibration=Calibration((0.5, 0.9, 0.99), (0.5, 1.5, 4.0), -100.0))
    compress = Compress(pruned=memory)

    async def sent(body: bytes) -> bytes:
        made = exchange(body)
        await prune(made)
        await compress(made)
        return made.working.encode()

    def spelt(messages: list[Any]) -> bytes:
        schema = {"type": "object", "properties": {"about": {"type": "string", "description": "What to look for."}}}
        tools = [{"type": "function", "function": {"name": "find", "parameters": schema}}]
        return json.dumps({"model": "m", "messages": messages, "tools": tools}, indent=4).encode()

    messages = result(text(random.Random(5)))
    try:
        hashed_words.error = Overloaded("busy")
        assert not pruned(json.loads(await sent(spelt(messages)))["messages"])
        hashed_words.error = None
        grown = spelt([*messages, {"role": "assistant", "content": "She did."}, {"role": "user", "content": "When?"}])
        once = await sent(grown)
        assert json.loads(once) != json.loads(grown), "the lossless tier had something to do"
        assert not pruned(json.loads(once)["messages"])
        assert await sent(once) == once
    finally:
        prune.close()
        compress.close()


@pytest.mark.parametrize("text", [pretty, escaped, log, trailing])
async def test_what_was_pruned_stays_as_it_is(hashed_words: Any, text: Texts) -> None:
    messages = result(text(random.Random(2)))
    once, first = await through(messages, -100.0, POLICY, hashed_words)
    assert pruned(once)
    assert FACT in json.dumps(once, ensure_ascii=False)
    line = first.receipt.lines[0]
    assert line.tokens_before is not None
    assert line.tokens_after is not None
    assert sum(part.tokens for part in line.parts) == line.tokens_before - line.tokens_after
    twice, _ = await through(once, -100.0, POLICY, hashed_words)
    assert twice == once


async def test_the_floor_is_of_what_no_rewriting_takes_out(hashed_words: Any) -> None:
    """Half of these tokens are space: to take that out as well must not count against what the tenant wants kept."""
    messages = result(pretty(random.Random(3)))
    policy = POLICY.model_copy(update={"floor": 0.9})
    once, first = await through(messages, -100.0, policy, hashed_words)
    assert pruned(once)
    [prune] = [line for line in first.receipt.lines if line.stage == "prune"]
    harmless = [part.tokens for part in prune.parts if part.what == "what stays rewritten without loss"]
    assert harmless
    assert kept(prune) < 0.9 <= kept(prune, harmless[0])


def kept(line: ReceiptLine, harmless: int = 0) -> float:
    assert line.tokens_before is not None
    assert line.tokens_after is not None
    return line.tokens_after / (line.tokens_before - harmless)


async def test_without_the_lossless_tier_a_text_is_pruned_as_it_is(hashed_words: Any) -> None:
    messages = result(pretty(random.Random(2)))
    once, _ = await through(messages, -100.0, POLICY.model_copy(update={"lossless": False}), hashed_words)
    assert pruned(once)
    assert '\n        "text": ' in once[3]["content"]


async def test_what_the_caller_wants_kept_is_found_however_it_is_spaced(hashed_words: Any) -> None:
    messages = result(pretty(random.Random(4)))
    plain, _ = await through(messages, -100.0, POLICY, hashed_words)
    gone = next(n for n in range(40) if f'"id":{n},' not in plain[3]["content"])
    kept, _ = await through(messages, -100.0, POLICY, hashed_words, keep=[f'"id": {gone},\n        "text"'])
    assert pruned(kept)
    assert f'"id":{gone},' in kept[3]["content"]
