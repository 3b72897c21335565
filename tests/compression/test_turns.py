"""Old turns go whole, rarely, and in a way that the next request repeats."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.policy import TurnsPolicy
from trimtab.compression.spans import Conversation
from trimtab.compression.summaries import Summaries
from trimtab.compression.turns import MARK, dropping, find, turns
from trimtab.protocol.errors import Overloaded
from trimtab.protocol.messages import Request

POLICY = TurnsPolicy(enabled=True, above=100, keep=0.5)
LONG = Deadline(36_000)


def read(messages: list[dict[str, Any]]) -> Conversation:
    conversation = Conversation.read(Request.build("chat", {"model": "m", "messages": messages}))
    assert conversation is not None
    return conversation


def applied(messages: list[dict[str, Any]], policy: TurnsPolicy = POLICY) -> list[dict[str, Any]]:
    conversation = read(messages)
    proposal = turns(conversation, policy, LONG)
    out: list[dict[str, Any]] = json.loads(conversation.rewrite(proposal.texts, proposal.dropped))
    return out


def bare(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the note that tells the model of what went before."""
    return [
        {**m, "content": m["content"].partition("]\n\n")[2]} if str(m["content"]).startswith(MARK) else m
        for m in messages
    ]


def turn(number: int, size: int, calls: int = 0) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"role": "user", "content": f"u{number} " + "x" * size}]
    for i in range(calls):
        call = {"id": f"c{number}.{i}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        made.append({"role": "assistant", "content": None, "tool_calls": [call]})
        made.append({"role": "tool", "tool_call_id": f"c{number}.{i}", "content": "r" * size})
    return [*made, {"role": "assistant", "content": f"a{number}"}]


def some(count: int, size: int, calls: int = 0) -> list[dict[str, Any]]:
    return [message for number in range(count) for message in turn(number, size, calls)]


history = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 2)), min_size=1, max_size=24).map(
    lambda sizes: [
        {"role": "system", "content": "rules"},
        *itertools.chain(*(turn(i, *s) for i, s in enumerate(sizes))),
    ]
)


def test_a_short_history_stays() -> None:
    messages = turn(0, 50) + turn(1, 50)
    assert applied(messages) == messages


def test_the_oldest_turns_go_whole_and_the_last_two_stay() -> None:
    messages = [{"role": "system", "content": "s"}, *some(6, 200, calls=1)]
    left = applied(messages)
    assert left[0] == messages[0]
    assert bare(left[1:]) == messages[len(messages) - len(left) + 1 :]
    gone = sum(m["role"] == "user" for m in messages) - sum(m["role"] == "user" for m in left)
    assert left[1]["content"].startswith(f"{MARK}{gone}]\n\nu{gone} ")
    assert left[1]["role"] == "user"
    assert len(left) < len(messages)
    assert [m for m in bare(left) if m["role"] == "user"][-2:] == [m for m in messages if m["role"] == "user"][-2:]


@given(history)
@settings(max_examples=150, deadline=None)
def test_calls_and_results_stay_together_and_nothing_else_changes(messages: list[dict[str, Any]]) -> None:
    left = applied(messages)
    assert all(message in messages for message in bare(left))
    assert sum(str(message["content"]).startswith(MARK) for message in left) == (len(left) < len(messages))
    called = [call["id"] for message in left for call in message.get("tool_calls") or ()]
    assert called == [message["tool_call_id"] for message in left if message["role"] == "tool"]
    assert left[-1] == messages[-1]


@given(history)
@settings(max_examples=150, deadline=None)
def test_twice_is_once(messages: list[dict[str, Any]]) -> None:
    once = applied(messages)
    assert applied(once) == once


@given(history, st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_a_growing_conversation_keeps_its_beginning_between_moves(messages: list[dict[str, Any]], step: int) -> None:
    """Every request of the conversation, in order: it grows, or the cut moved on, and then enough to last."""
    moves, before, cut = 0, None, 0
    for end in range(2, len(messages) + 1, step):
        left = applied(messages[:end])
        gone = end - len(left)
        assert gone >= cut
        if before is not None and gone == cut:
            assert left[: len(before)] == before
        moves, before, cut = moves + (gone > cut), left, gone
    total = sum(len(json.dumps(m)) for m in messages) / 4
    assert moves <= 1 + total / (POLICY.above * (1 - POLICY.keep))


def test_a_turn_in_progress_does_not_move_the_cut() -> None:
    settled = some(5, 150)
    asked = [*settled, {"role": "user", "content": "next"}]
    cut = len(asked) - len(applied(asked))
    for more in range(1, 8):
        loop = turn(9, 500, calls=more)[1:]
        assert len([*asked, *loop]) - len(applied([*asked, *loop])) == cut


def test_the_cached_prefix_and_system_messages_stay() -> None:
    messages = some(6, 300)
    messages.insert(7, {"role": "developer", "content": "mind this"})
    messages[4]["cache_control"] = {"type": "ephemeral"}
    left = applied(messages)
    assert left[:6] == messages[:6]  # the third turn holds the mark
    assert messages[7] in left
    assert len(left) < len(messages)


def test_a_result_that_comes_late_keeps_its_call() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    late = [
        {"role": "user", "content": "x" * 300},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "user", "content": "y" * 300},
        {"role": "tool", "tool_call_id": "c", "content": "r"},
        {"role": "assistant", "content": "a"},
    ]
    for more in range(6):
        left = applied(late + some(more, 100))
        assert (late[1] in left) == (late[3] in left)


def test_the_deadline_is_heeded() -> None:
    conversation = read(some(50, 100))
    with pytest.raises(OutOfTime):
        turns(conversation, POLICY, Deadline(1, clock=iter(range(0, 10_000, 2)).__next__))


class Small:
    """A summariser that counts its calls and may fail."""

    model = "small"

    def __init__(self, fails: bool = False) -> None:
        self.asked: list[str] = []
        self.fails = fails

    async def __call__(self, text: str, most_tokens: int) -> str:
        self.asked.append(text)
        if self.fails:
            raise Overloaded("no")
        return "they talked"


async def test_a_summary_takes_the_turns_place_and_is_made_once() -> None:
    messages = some(8, 500)
    conversation, small, summaries = read(messages), Small(), Summaries()
    cuts = find(conversation, POLICY, LONG)
    first = await summaries.summarised(conversation, cuts, small, LONG)
    left = json.loads(conversation.rewrite(first.texts, first.dropped))
    note = f"[Summary of {cuts.at} earlier turns, made by small: they talked]\n\n"
    assert left[0]["role"] == "user"
    assert left[0]["content"] == note + messages[conversation.messages[cuts.first_kept].index]["content"]
    assert first.dropped == dropping(cuts).dropped
    calls = len(small.asked)
    assert calls == len(cuts.moves)
    again = await summaries.summarised(conversation, cuts, small, LONG)
    assert (again.texts, len(small.asked)) == (first.texts, calls)
    await summaries.summarised(conversation, cuts, small, LONG, whose="another tenant")
    assert len(small.asked) == 2 * calls
    assert not find(read(left), POLICY, LONG).moves, "the summary does not make the rest too long"


async def test_without_a_summary_the_turns_stay() -> None:
    conversation = read(some(8, 500))
    proposal = await Summaries().summarised(conversation, find(conversation, POLICY, LONG), Small(fails=True), LONG)
    assert not proposal
    assert proposal.parts[0].why == "no summary in time"
    late = await Summaries().summarised(conversation, find(conversation, POLICY, LONG), Small(), Deadline(0))
    assert late.parts[0].why in ("no summary in time", None)
