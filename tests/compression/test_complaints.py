"""What users of compression proxies report, complaint by complaint: which test holds each of them off, and the tests
that fit nowhere else."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from trimtab.compression.compress import Compress
from trimtab.compression.policy import (
    CompressionPolicy,
    ContextPolicy,
    DemonstrationPolicy,
    ProsePolicy,
    ToolsPolicy,
    TurnsPolicy,
)
from trimtab.compression.prune import Prune
from trimtab.protocol.exchange import Caller, Exchange, Price, Receipt, Target, Tenant
from trimtab.protocol.messages import Request

# The issue where it was reported, what went wrong there, and the tests (by file under tests/) that would see it here.
COMPLAINTS: dict[str, tuple[str, dict[str, list[str]]]] = {
    "LLMLingua#114": (
        "segments marked as not to be compressed were",
        {
            "compression/test_spans.py": ["test_protected_things_cannot_be_changed_by_mistake"],
            "compression/test_lossless.py": ["test_only_what_may_change_changes"],
            "compression/test_prune.py": ["test_strings_to_keep"],
            "compression/test_compress.py": ["test_a_text_that_the_caller_keeps_is_kept"],
        },
    ),
    "LLMLingua#149, LLMLingua#93, OmniRoute#8169": (
        "parts of words and of identifiers were dropped",
        {
            "compression/test_surprise.py": ["test_whole_words_only_and_what_must_stay_stays"],
            "compression/test_literals.py": ["test_a_literal_is_found_wherever_it_stands"],
        },
    ),
    "LLMLingua#213": (
        "the instruction's last sentences were cut",
        {
            "compression/test_documents.py": [
                "test_the_question_is_not_part_of_the_last_document",
                "test_what_is_said_to_the_model_between_documents_is_instruction",
            ],
            "compression/test_prompt_formats.py": ["test_the_answer_and_the_instructions_stay"],
            "compression/test_surprise.py": ["test_instructions_answers_and_system_text_stay"],
        },
    ),
    "LLMLingua#210": (
        "it crashed on long texts",
        {
            "compression/test_compress.py": ["test_odd_input_goes_through_and_is_never_an_error"],
            "compression/test_prune.py": ["test_odd_texts_come_back_or_out_of_time"],
            "compression/test_surprise.py": ["test_a_text_that_was_left_stays_left"],
        },
    ),
    "LLMLingua#64, LLMLingua#147, LLMLingua#175": (
        "seconds for ten thousand tokens",
        {
            "compression/test_pool.py": ["test_a_call_returns_at_its_deadline_and_its_thread_comes_back"],
            "compression/test_prune.py": ["test_too_slow_an_embedder_leaves_all_and_is_warm_for_the_next"],
            "compression/test_surprise.py": ["test_hostile_texts_cost_little"],
        },
    ),
    "LLMLingua#171, LLMLingua#193": (
        "published numbers could not be had again",
        {
            "benchmarks/test_compression.py": [
                "test_generated_requests_come_to_no_harm",
                "test_the_checker_sees_damage",
            ],
            "benchmarks/test_context.py": [
                "test_contexts_depend_on_the_texts_alone",
                "test_fitting_finds_the_evidence_and_says_the_same_twice",
            ],
        },
    ),
    "Selective_Context#6, #15, #18, #28": (
        "URLs and code were treated as prose, words were fused",
        {
            "compression/test_literals.py": ["test_each_kind_is_told"],
            "compression/test_surprise.py": [
                "test_other_than_prose_stays",
                "test_offsets_of_words_and_tokens_meet",
                "test_whole_words_only_and_what_must_stay_stays",
            ],
        },
    ),
    "OmniRoute#13454, OmniRoute#13455, caveman-compression#13": (
        "never, not and no were dropped, line ends collapsed",
        {
            "compression/test_surprise.py": ["test_whole_words_only_and_what_must_stay_stays"],
            "compression/test_pruner.py": [
                "test_a_not_that_is_asked_about_stays",
                "test_what_vectors_cannot_tell_apart_is_no_repetition",
            ],
        },
    ),
    "headroom#3634, headroom#3673": (
        "small JSON lost keys; a record was gone and nothing said so",
        {
            "compression/test_complaints.py": ["test_a_small_result_is_the_same_by_value"],
            "compression/test_pruner.py": ["test_json_still_parses_with_the_kept_records_equal"],
            "compression/test_prune.py": [
                "test_search_results_keep_the_one_that_answers_and_say_how_many_are_gone",
                "test_questions_about_rows_leave_all_of_them",
            ],
        },
    ),
    "headroom#1006, #1077, #1095, #389, #645": (
        "marks that nobody could redeem, and a tool to redeem them that was not there",
        {
            "compression/test_complaints.py": ["test_nothing_that_is_sent_has_to_be_redeemed"],
            "compression/test_duplicates.py": ["test_all_can_be_had_back_and_is_done_once"],
        },
    ),
    "headroom#2438, headroom#327, litellm#39519": (
        "provider caches were missed, and the bill rose",
        {
            "compression/test_gate.py": ["test_what_is_chosen_never_costs_more_than_the_original"],
            "compression/test_compress.py": [
                "test_what_was_forwarded_stays_a_beginning_of_what_is",
                "test_no_conversation_costs_more_than_if_it_were_passed_through",
            ],
            "compression/test_prune.py": [
                "test_a_growing_conversation_keeps_its_beginning",
                "test_no_time_at_all_does_not_change_what_was_pruned",
            ],
        },
    ),
    "headroom#1171": (
        "threads that never came back filled the executor",
        {"compression/test_pool.py": ["test_stuck_work_keeps_its_place_and_others_are_told"]},
    ),
    "headroom#1843, headroom#46": (
        "savings that were not there, and no word of why",
        {
            "compression/test_prune.py": ["test_what_is_left_alone_and_why"],
            "compression/test_compress.py": [
                "test_it_says_why_it_does_nothing",
                "test_a_tool_result_is_compacted_and_the_receipt_says_what_it_saved",
            ],
        },
    ),
    "litellm#29320": (
        "opt-in by tenant and request, never in the way, observable",
        {
            "compression/test_compress.py": [
                "test_a_caller_cannot_switch_it_on",
                "test_when_every_thread_is_taken_the_request_goes_on",
            ],
            "compression/test_complaints.py": ["test_what_could_change_an_answer_is_off"],
        },
    ),
    "llmtrim#14": (
        "what a call saved, the rounds that followed cost",
        {
            "compression/test_gate.py": ["test_the_expected_answer_grows_below_half_as_the_trial_saw"],
            "compression/test_compress.py": ["test_no_conversation_costs_more_than_if_it_were_passed_through"],
        },
    ),
    "continue#2891, OpenHands#1314, textgen#5160": (
        "wanted inside the proxy, by policy",
        {"compression/test_compress.py": ["test_old_turns_go_where_a_tenant_wants_it"]},
    ),
}

EVERYTHING_ON = CompressionPolicy(
    context=ContextPolicy(enabled=True, recall=0.9, deadline_ms=20_000),
    demonstrations=DemonstrationPolicy(enabled=True, keep=0.2),
    turns=TurnsPolicy(enabled=True, above=200, keep=0.2),
    prose=ProsePolicy(enabled=True, keep=0.3),
    tools=ToolsPolicy(enabled=True, recall=0.95, share=True),
    floor=0.0,
    deadline_ms=20_000,
)
TOOLS = [
    {
        "type": "function",
        "function": {"name": f"{what}_report", "description": f"Reads the {what} report.", "parameters": {}},
    }
    for what in ("weather", "traffic", "harbour", "market", "railway", "museum")
]


@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_each_complaint_has_its_tests(complaint: str) -> None:
    here = Path(__file__).parent.parent
    for file, names in COMPLAINTS[complaint][1].items():
        text = (here / file).read_text(encoding="utf-8")
        for name in names:
            assert re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE), f"{file} has no {name}"


def exchange(messages: list[Any], policy: CompressionPolicy = EVERYTHING_ON, **fields: Any) -> Exchange:
    request = Request.build("chat", {"model": "m", "messages": messages, "max_tokens": 4, **fields})
    caller = Caller(Tenant("t", policies={CompressionPolicy: policy}))
    made = Exchange("r", request, request, caller, Receipt("r", "t", 0.0), [], 0.0)
    made.targets = (Target("m", "openai", "some-model", Price(2_000_000, 2_000_000, 8_000_000, known=True)),)
    return made


@pytest.fixture
async def through(hashed_words: Any) -> AsyncIterator[Any]:
    """Both stages, in their order."""
    prune, compress = Prune(hashed_words), Compress()
    compress.embedder = hashed_words

    async def walk(made: Exchange) -> list[Any]:
        await prune(made)
        await compress(made)
        sent: list[Any] = made.working.get("messages")
        return sent

    yield walk
    prune.close()
    compress.close()


def called(result: str, question: str = "Which subtasks has the harbour task?") -> list[Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "harbour_report", "arguments": "{}"}}
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": result},
    ]


async def test_a_small_result_is_the_same_by_value(through: Any) -> None:
    task = {"id": 7, "title": "Harbour", "tags": ["a", "b"], "subtasks": [{"id": i, "done": None} for i in range(6)]}
    sent = await through(exchange(called(json.dumps(task, indent=2))))
    assert json.loads(sent[2]["content"]) == task


async def test_nothing_that_is_sent_has_to_be_redeemed(through: Any) -> None:
    """What is gone is marked as gone: no handle, no hash, no tool to fetch it by."""
    towns = ("harbour", "market", "bakery", "railway", "museum", "brewery", "theatre", "library")
    found = [
        {"title": f"The {towns[i % 8]} {i}", "text": f"The {towns[i % 8]} number {i} stands at the end of the street. "
         f"Its owners rebuilt it after a fire, and painted the doors in a shade of green that visitors like."}
        for i in range(40)
    ]  # fmt: skip
    found[11]["text"] += " Ludovika Brandt discovered the comet Halvorsen from its roof."
    messages = called(json.dumps({"results": found}), "Who discovered the comet Halvorsen?")
    made = exchange(messages, tools=TOOLS)
    sent = await through(made)
    after = sent[2]["content"]
    assert len(after) < len(messages[2]["content"])
    marks = [one for one in json.loads(after)["results"] if one not in found]
    assert marks
    assert all(set(one) == {"_omitted"} and isinstance(one["_omitted"], int) for one in marks)
    names = [tool["function"]["name"] for tool in made.working.get("tools")]
    assert set(names) <= {tool["function"]["name"] for tool in TOOLS}  # type: ignore[index]


async def test_what_could_change_an_answer_is_off(through: Any) -> None:
    found = [{"title": f"Town {i}", "text": f"The town number {i} has a harbour and a market. " * 4} for i in range(40)]
    messages = called(json.dumps(found, indent=2), "Which town is number 7?")
    made = exchange(messages, CompressionPolicy(), tools=TOOLS)
    sent = await through(made)
    assert json.loads(sent[2]["content"]) == found
    assert made.working.get("tools") == TOOLS
