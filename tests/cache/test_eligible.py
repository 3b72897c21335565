"""Which requests may be answered from the cache, and which questions from another wording."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cache.eligible import about_now, exact, fuzzy
from trimtab.cache.key import last_question
from trimtab.cache.policy import CachePolicy, SemanticPolicy
from trimtab.protocol.messages import Kind, Request

DEFAULT = CachePolicy()
ALWAYS = CachePolicy(when="always")
OPEN = CachePolicy(semantic=SemanticPolicy(enabled=True))
QUESTION = "How do I boil an egg?"


PICTURE = {"type": "image_url", "image_url": {"url": "data:,"}}


def request(kind: Kind = "chat", **fields: Any) -> Request:
    body = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}
    return Request.build(kind, {name: value for name, value in {**body, **fields}.items() if value is not None})


def allowing(*what: str) -> CachePolicy:
    return CachePolicy.model_validate({"semantic": {"enabled": True, "allow": list(what)}})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.0},
        {"n": 3},
        {"logprobs": True},
        {"store": False},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"function": {"name": "f"}}]},
        {"background": False},
        {"messages": [{"role": "user", "content": [PICTURE]}]},
        {"messages": [{"role": "user", "content": 'What is an "image_url"?'}]},
        {"messages": ['"image_url"', 7]},
    ],
)
def test_a_deterministic_request_is_kept(fields: dict[str, Any]) -> None:
    assert exact(request(**fields), DEFAULT) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True},
        {"previous_response_id": "r"},
        {"conversation": "c"},
        {"background": True},
        {"audio": {"voice": "x"}},
        {"modalities": ["text", "audio"]},
        {"web_search_options": {}},
        {"modalities": 1},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "mcp"}]},
        {"tools": "x"},
        {"messages": [{"role": "user", "content": [PICTURE, {"image_url": {"url": "https://example.org/now.png"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": "http://example.org/a"}]}]},
    ],
)
def test_what_rests_on_more_than_the_request_is_not(fields: dict[str, Any]) -> None:
    assert exact(request(**fields), ALWAYS)
    assert fuzzy(request(**fields), QUESTION, allowing("sampling", "personal", "time"))


@pytest.mark.parametrize("temperature", [None, 0.2, 1, True, "0"])
def test_a_sampled_answer_is_kept_only_where_the_policy_says_always(temperature: Any) -> None:
    sampled = request(temperature=temperature)
    assert exact(sampled, DEFAULT)
    assert exact(sampled, ALWAYS) is None
    assert fuzzy(sampled, QUESTION, OPEN)
    assert fuzzy(sampled, QUESTION, allowing("sampling")) is None


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ('{"role":"user","content":"a bad egg","content":"%s"}', "a message gives a field twice"),
        (
            '{"role":"user","content":[{"type":"text","text":"a bad egg","te\\u0078t":"%s"}]}',
            "a message gives a field twice",
        ),
        ('{"role":"user","content":"%s"}', None),
    ],
)
def test_where_two_readers_see_two_questions_neither_is_another_wording(text: str, means: str | None) -> None:
    body = '{"model":"m","temperature":0,"messages":[%s]}' % (text % QUESTION)
    made = Request.parse("chat", body.encode())
    assert last_question(made.get("messages")) == QUESTION
    assert fuzzy(made, QUESTION, OPEN) == means
    assert exact(made, DEFAULT) is None, "the same bytes mean the same to any reader"


def test_an_embedding_is_deterministic_and_has_no_other_wording() -> None:
    embedding = Request.build("embeddings", {"model": "m", "input": "x"})
    assert exact(embedding, DEFAULT) is None
    assert fuzzy(embedding, QUESTION, OPEN)
    assert fuzzy(request("completions"), QUESTION, OPEN)


def test_another_wording_needs_the_policy() -> None:
    assert fuzzy(request(), QUESTION, DEFAULT)
    assert fuzzy(request(), QUESTION, OPEN) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"functions": [{"name": "f"}]},
        {"tool_choice": "auto"},
        {"n": 2},
        {"n": "x"},
        {"logprobs": True},
        {"messages": "x"},
        {"messages": ["x"]},
        {"messages": [{"role": "user", "content": [PICTURE]}, {"role": "user", "content": QUESTION}]},
        {"messages": [{"role": "user", "content": [{"type": "file"}]}, {"role": "user", "content": QUESTION}]},
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}, {"role": "user", "content": QUESTION}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}, {"role": "user", "content": QUESTION}]},
        {"messages": [{"role": "assistant", "audio": {"id": "1"}}, {"role": "user", "content": QUESTION}]},
    ],
)  # fmt: skip
def test_tools_pictures_and_several_choices_have_no_other_wording(fields: dict[str, Any]) -> None:
    assert fuzzy(request(**fields), QUESTION, OPEN)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"tools": []},
        {"n": 1},
        {"messages": [{"role": "system", "content": "Be my guide."}, {"role": "user", "content": QUESTION}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]},
    ],
)
def test_plain_text_may_be_asked_in_other_words(fields: dict[str, Any]) -> None:
    assert fuzzy(request(**fields), QUESTION, OPEN) is None


@pytest.mark.parametrize(
    "question",
    [
        "How do I learn to swim fast?",
        "What should I eat before a marathon?",
        "Can you tell me how magnets work?",
        "Please help me understand gravity and light",
        "Why is the US Senate so large?",
        "Wie lerne ich schnell Klavier?",
        "¿Cómo puedo aprender piano rápido?",
        "Comment puis-je apprendre le piano ?",
        "北京是哪个国家的首都",
    ],
)
def test_the_commonest_ways_of_asking_are_eligible(question: str) -> None:
    assert fuzzy(request(), question, OPEN) is None


@pytest.mark.parametrize(
    "question",
    [
        "How do I fix my car engine?",
        "What is wrong with our kitchen sink?",
        "Is this old bread good for me?",
        "I am afraid of dogs, what helps?",
        "I'm afraid of dogs, what helps?",
        "I’ve lost a shoe, what helps?",
        "Whose car is faster, mine or hers?",
        "Wie repariere ich mein altes Auto?",
        "Comment réparer notre vieille voiture ?",
        "¿Cómo arreglo nuestro coche viejo?",
        "我的电脑为什么这么慢",
    ],
)
def test_words_of_person_are_not_unless_allowed(question: str) -> None:
    assert fuzzy(request(), question, OPEN) == "words of person"
    assert fuzzy(request(), question, allowing("personal")) is None


@pytest.mark.parametrize(
    "question",
    [
        "What is the weather like in Rome today?",
        "Who is the current king of Sweden?",
        "What are the latest phones of Nokia?",
        "Which films are out THIS WEEK in cinemas?",
        "What happened in Paris yesterday?",
        "Wie ist das Wetter heute in Rom?",
        "Quelle heure est-il maintenant à Rome ?",
        "¿Qué tiempo hace hoy en Roma?",
        "今天北京的天气怎么样",
    ],
)
def test_words_of_time_are_not_unless_allowed(question: str) -> None:
    assert fuzzy(request(), question, OPEN) == "words of time"
    assert fuzzy(request(), question, allowing("time")) is None
    assert about_now(question)


def test_what_is_not_about_now() -> None:
    assert not about_now("Who was king of Sweden in 1700?")
    assert not about_now("How do I know a snow leopard?")


@pytest.mark.parametrize("question", ["hi", "Why?", "yes please", "tell me more about it", "", "?!", "go on"])
def test_too_few_words_say_nothing(question: str) -> None:
    assert fuzzy(request(), question, OPEN)


def test_a_long_question_is_not() -> None:
    assert fuzzy(request(), "apple tree " * 200, OPEN)
    assert fuzzy(request(), "apple tree " * 100, OPEN) is None


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type"]), inner),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["messages", "tools", "n", "store", "audio", "modalities", "temperature", "logprobs", "functions"]
        ),
        json,
    ),
    st.text(max_size=60),
)
def test_any_request_gets_a_verdict(fields: dict[str, Any], question: str) -> None:
    made = Request.build("chat", {"model": "m", **fields})
    assert exact(made, ALWAYS) is None or exact(made, ALWAYS)
    assert fuzzy(made, question, OPEN) is None or fuzzy(made, question, OPEN)
    assert about_now(question) in (True, False)
