"""Is what comes back what came the first time? And does only what was whole come back?

    python benchmarks/cache_replay.py [--json OUT] [--quick] [--seed N]

Each answer that the scripted upstream can give is asked for twice through a running gateway. In the same form the
second caller must get the same bytes or events, in the other form the same words, calls, figures and ends:
`replay_differences`. An answer that was cut, failed, filtered or too short must not come back at all: `kept_unfit`.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from cache_house import PATHS, Client, Got, House, alone, configuration, house, key_of, note
from report import Row, at_most

from trimtab.backends.fake_server import FakeServer

TEXTS: tuple[dict[str, Any], ...] = (
    {"text": "It is 8,849 m high: 舵 → 🚢.\n\n  Two  spaces, a tab\t and an end. "},
    {"text": ['{"a"', ": 1.50", ", ", '"b": "\\u00e9\\n', '"}', "\u2028", "😀"]},
    {"text": "Looking.", "tool_calls": [{"name": "look", "arguments": '{"at": [1, 2.0]}'}]},
    {"tool_calls": [{"name": "f", "arguments": '{"q": "舵"}'}, {"name": "g"}, {"name": "f", "arguments": "[]"}]},
)
THOUGHTS: tuple[dict[str, Any], ...] = ({}, {"reasoning": "Let me think. 舵 means rudder."})
FIELDS: tuple[dict[str, Any], ...] = ({}, {"logprobs": True, "top_logprobs": 1}, {"n": 2})
TOLD: tuple[dict[str, Any], ...] = (
    {},
    {"cached_tokens": 3, "prompt_tokens": 11},
    {"extra": {"x_new": {"a": [1.50, None]}}},
)
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"together": 3},
    {"cut_bytes": 7},
    *(
        {"faults": {"garble": [name]}}
        for name in (
            "split_utf8",
            "crlf",
            "no_space",
            "event_fields",
            "bom",
            "comments",
            "huge_line",
            "no_done",
            "no_newline",
            "usage_absent",
            "usage_null",
            "usage_with_choices",
            "usage_running",
        )
    ),
    {"faults": {"wire": "gzip"}},
    {"faults": {"wire": "close_delimited"}},
    {"faults": {"wire": "drip"}, "between_s": 0.00001},
)
# What must never be given again, and what asks for it beside a plain request.
UNFIT: tuple[dict[str, Any], ...] = (
    {"finish": "length"},
    {"finish": "content_filter"},
    {"finish": "something_new"},
    {"text": ""},
    {"text": "  ", "tokens": 0},
    {"faults": {"status": 500}},
    {"faults": {"status": 429}},
    {"faults": {"status": 400}},
    {"faults": {"refuse": True}},
    {"faults": {"error_after": 0}},
    {"faults": {"error_after": 3}},
    {"faults": {"error_after": 2, "error": {"message": "no"}}},
    {"faults": {"cut_after": 0}},
    {"faults": {"cut_after": 1}},
    {"faults": {"cut_after": 4}},
    {"faults": {"garble": ["no_finish"]}},
    {"faults": {"garble": ["no_finish", "no_done"]}},
    {"faults": {"garble": ["broken_json"]}},
    {"faults": {"garble": ["two_in_event", "no_finish"]}},
    {"faults": {"garble": ["two_on_line", "no_finish"]}},
    {"faults": {"wire": "close_mid_chunk"}},
    {"faults": {"wire": "rst"}},
    {"faults": {"wire": "length_long"}},
    {"faults": {"wire": "html"}},
    {"faults": {"wire": "sse_error"}},
)
ASKED: tuple[dict[str, Any], ...] = ({}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}})
SOUND = "This one is sound."


@dataclass
class Found:
    """`kept` of the `asked` pairs were answered from the cache the second time."""

    asked: int = 0
    kept: int = 0
    odd: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """One answer and the two that ask for it."""

    script: dict[str, Any]
    fields: dict[str, Any]
    first: dict[str, Any]
    second: dict[str, Any]
    kind: str = "chat"


def cases(quick: bool) -> Iterator[Case]:
    """All answers in the usual shape, asked for in every pair of forms; then some of them in every odd shape."""
    pairs = list(itertools.product(ASKED, ASKED))
    for text, thought, fields, told in itertools.product(TEXTS, THOUGHTS, FIELDS, TOLD):
        for first, second in pairs if not quick else pairs[:: 2 if told else 1]:
            yield Case({**text, **thought, **told}, fields, first, second)
    for shape, text in itertools.product(SHAPES, TEXTS[:: 3 if quick else 1]):
        for first, second in pairs:
            yield Case({**text, **THOUGHTS[1], **shape, "huge_bytes": 5_000}, {}, first, second)
    for text, fields, (first, second) in itertools.product(TEXTS[:2], ({}, {"logprobs": 1}, {"n": 2}), pairs):
        yield Case(text, fields, first, second, "completions")


def rows(options: Any) -> list[Row]:
    """`options` has `quick`."""
    with tempfile.TemporaryDirectory(prefix="trimtab-replay-") as folder:
        same, unfit = uvloop.run(_all(Path(folder), options.quick))
    for line in (*same.odd[:10], *unfit.odd[:10]):
        note(options, line)
    return [
        at_most("replay_differences", len(same.odd), 0, n=same.asked),
        Row("replay_kept", same.kept / same.asked, unit="share", n=same.asked),
        at_most("kept_unfit", len(unfit.odd), 0, n=unfit.asked),
    ]


async def _all(folder: Path, quick: bool) -> tuple[Found, Found]:
    plan, upstream = list(cases(quick)), FakeServer()
    async with upstream:
        # Each unfit answer comes from a model of its own, so that no circuit opens before it is asked for.
        names = ["m", *(f"u{n}" for n in range(len(UNFIT) * len(ASKED) ** 2))]
        async with house(configuration(folder, upstream, [{}], names)) as place:
            client = Client(place.port)
            same = await _same(client, upstream, plan)
            unfit = await _unfit(client, place, upstream)
            await client.leave()
    return same, unfit


async def _same(client: Client, upstream: FakeServer, plan: list[Case]) -> Found:
    found = Found()
    for serial, case in enumerate(plan):
        upstream.use(case.script)
        first = await _ask(client, case, case.first, serial)
        second = await _ask(client, case, case.second, serial)
        found.asked += 1
        found.kept += second.cache == "hit"
        why = differs(case, first, second)
        if why is not None:
            found.odd.append(f"replay: {why}: {case}")
    return found


async def _ask(client: Client, case: Case, form: dict[str, Any], serial: int, model: str = "m") -> Got:
    asked = (
        {"prompt": f"{serial}"}
        if case.kind == "completions"
        else {"messages": [{"role": "user", "content": f"{serial}"}]}
    )
    body = json.dumps({"model": model, **asked, "temperature": 0, **case.fields, **form}).encode()
    return await client.ask(PATHS[case.kind], key_of(0), body, {})


async def _unfit(client: Client, place: House, upstream: FakeServer) -> Found:
    """Ask for each of them, then for a sound one: it has to be that one which comes."""
    found = Found()
    for serial, (script, first, second) in enumerate(itertools.product(UNFIT, ASKED, ASKED)):
        case = Case(script, {}, first, second)
        upstream.use(script)
        before = await _ask(client, case, first, serial, f"u{serial}")
        await client.leave()
        await place.rest()
        upstream.use({"text": SOUND})
        after = await _ask(client, case, second, serial, f"u{serial}")
        found.asked += 1
        if after.status != 200 or words(after).text.get((0, "content")) != SOUND:
            if _whole(before):
                continue  # the fault struck the other form only, and what came was good
            found.odd.append(f"unfit: {script} came again ({first}, then {second}): {bytes(after.body[:200])!r}")
    return found


def _whole(got: Got) -> bool:
    """Whether an answer looks to its caller as one that is complete."""
    if got.status != 200 or not got.whole or b'"error"' in got.body:
        return False
    said = words(got)
    return set(said.ends.values()) <= {"stop", "tool_calls"} and len(said.ends) > 0 and any(said.text.values())


# What two answers have in common.


@dataclass
class Words:
    """What an answer says, whatever its form. Texts by choice and place; `readable` False where it is no JSON."""

    head: dict[str, Any] = field(default_factory=dict)
    text: dict[tuple[int, str], str] = field(default_factory=dict)
    calls: dict[tuple[int, int], dict[str, str]] = field(default_factory=dict)
    logprobs: dict[tuple[int, str], list[Any]] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)
    usage: Any = None


def differs(case: Case, first: Got, second: Got) -> str | None:
    """What the second caller was told otherwise than the first one, in words; None: nothing."""
    if (first.status, first.whole, second.status, second.whole) != (200, True, 200, True):
        return f"status {first.status}, then {second.status}"
    if second.cache != "hit":
        return None
    streamed = bool(case.first.get("stream")), bool(case.second.get("stream"))
    if streamed == (False, False):
        return None if first.body == second.body else "other bytes"
    if streamed == (True, True) and case.first == case.second:
        return None if events(first) == events(second) else "other events"
    before, after = words(first), words(second)
    if not (case.first.get("stream_options") or streamed == (False, True)) or not case.second.get("stream_options"):
        if streamed != (True, False) and after.usage is not None and not case.second.get("stream_options"):
            return "usage that nobody asked for"
        before.usage = after.usage = None
    for name in ("head", "text", "calls", "logprobs", "ends", "usage"):
        one, other = getattr(before, name), getattr(after, name)
        if one != other:
            return f"another {name}: {one!r:.300} and {other!r:.300}"
    return None


def events(got: Got) -> list[Any]:
    """The events of a stream as a client reads them, `[DONE]` included."""
    found = []
    for block in bytes(got.body).replace(b"\r\n", b"\n").removeprefix(b"\xef\xbb\xbf").split(b"\n\n"):
        lines = [line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")]
        if lines:
            data = b"\n".join(lines)
            found.append("[DONE]" if data == b"[DONE]" else json.loads(data))
    return found


def words(got: Got) -> Words:
    said = Words()
    streamed = got.headers.get("content-type", "").startswith("text/event-stream")
    chunks = [event for event in events(got) if event != "[DONE]"] if streamed else [json.loads(got.body)]
    for chunk in chunks:
        for name, value in chunk.items():
            if name == "usage":
                said.usage = value or said.usage
            elif name not in ("choices", "object", "padding"):
                said.head[name] = value
        for choice in chunk.get("choices") or ():
            _choice(said, choice)
    return said


def _choice(said: Words, choice: dict[str, Any]) -> None:
    index = choice.get("index", 0)
    message = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
    for name in ("content", "reasoning_content", "refusal"):
        if message.get(name):
            said.text[index, name] = said.text.get((index, name), "") + message[name]
    for place, call in enumerate(message.get("tool_calls") or ()):
        known = said.calls.setdefault((index, call.get("index", place)), {"id": "", "name": "", "arguments": ""})
        known["id"] = call.get("id") or known["id"]
        for name in ("name", "arguments"):
            known[name] += (call.get("function") or {}).get(name) or ""
    for name, figures in (choice.get("logprobs") or {}).items():
        if isinstance(figures, list):
            said.logprobs.setdefault((index, name), []).extend(figures)
    if choice.get("finish_reason"):
        said.ends[index] = choice["finish_reason"]


def main() -> int:
    return alone("cache_replay", __doc__, rows)


if __name__ == "__main__":
    sys.exit(main())
