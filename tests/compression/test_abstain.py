"""Which questions leave everything, in five languages, and which do not."""

from __future__ import annotations

import time

import pytest

from trimtab.compression.abstain import everything
from trimtab.compression.question import follows_up, question

WHOLE = [
    "Summarise the documents above.",
    "Please summarize this",
    "TL;DR",
    "Give me the key points",
    "Translate the following into German",
    "Rewrite this in simple words",
    "Proofread my text",
    "list all names",
    "List every company that is mentioned",
    "Extract all dates",
    "extract the phone numbers",
    "Compare these documents",
    "How many documents mention Paris?",
    "What is this document about?",
    "Analyse the report",
    "Count the errors",
    "Fasse die Texte kurz zusammen",
    "Erstelle eine Zusammenfassung",
    "Übersetze das ins Englische",
    "Liste alle Städte auf",
    "Korrigiere den Text",
    "Résumez ces articles",
    "Traduis ce texte",
    "Listez tous les noms",
    "Resume el texto",
    "Traduce esto al inglés",
    "Enumera todos los nombres",
    "总结一下",
    "请翻译成英文",
    "列出所有公司",
    "提取以下文本中的日期",
]
FACTS = [
    "Who got the first Nobel prize in physics?",
    "how many people live in Berlin",
    "what percentage of the earth is water",
    "When was the Treaty of Rome signed?",
    "Wer hat das Telefon erfunden?",
    "Wie hoch ist der Eiffelturm?",
    "Quelle est la capitale de la France ?",
    "¿Quién escribió Don Quijote?",
    "谁发明了电话？",
    "max retries of the payment client",
]


@pytest.mark.parametrize("query", WHOLE)
def test_questions_about_the_whole(query: str) -> None:
    assert everything(query) == "the question asks for everything"


@pytest.mark.parametrize("query", FACTS)
def test_questions_about_a_fact(query: str) -> None:
    assert everything(query) is None


@pytest.mark.parametrize("query", ["", " \n", "why?", "ok", "go on", "And then?", "?", "warum", "好"])
def test_questions_that_say_nothing(query: str) -> None:
    assert everything(query) in ("there is no question", "the question says too little")


@pytest.mark.parametrize(
    "query", ["how many orders are open", "the largest order", "average price", "哪些订单最大", "wie viele"]
)
def test_records_are_counted_together(query: str) -> None:
    assert everything(query, "data") is not None
    assert everything(query, "passages") is not None


def test_first_and_not_are_facts_where_records_hold_passages() -> None:
    assert everything("who got the first prize", "passages") is None
    assert everything("who got the first prize", "data") is not None


@pytest.mark.parametrize(
    "query",
    [
        "Which orders came before May?",
        "orders over 800",
        "Which hotels have a pool?",
        "Return a JSON object with the fields name and price for the hotels",
        "Welche Hotels gibt es in Oslo?",
        "Bestellungen seit März",
        "800元以上的订单",
    ],
)
def test_records_are_picked_by_a_condition(query: str) -> None:
    assert everything(query, "data") is not None
    assert everything(query) is None


def test_one_record_can_be_asked_for() -> None:
    assert everything("status of order 4711", "data") is None
    assert everything("When did Fennimore order his trombone?", "data") is None
    assert everything("What does Villa Dahlia in Cairo cost?", "data") is None


@pytest.mark.parametrize("piece", ["a ", "list ", "fasse ", "x", "convert a b c ", "\n", "fasse " + "y" * 70])
def test_hostile_questions_cost_little(piece: str) -> None:
    before = time.perf_counter()
    everything(piece * 100_000, "data")
    assert time.perf_counter() - before < 5


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Use the documents.\n\nQuestion: Who won?\nAnswer:", "Who won?"),
        ("Rules: be brief.\n**Question:** Who won?\n\n**Answer:**", "Who won?"),
        ("<question>Who won?</question> Answer in one word.", "Who won?"),
        ("Frage: Wer gewann?\nAntwort:", "Wer gewann?"),
        ("问题：谁赢了？\n回答：", "谁赢了？"),
        ("Question: first?\nAnswer: yes\nQuestion: second?\nAnswer:", "second?"),
        ("## Context\n\n## Question\nWho won?\n\n## Rules\n- one word", "Who won?"),
        ("# Frage\n\nWer gewann?", "Wer gewann?"),
        ("## Questions of law\nWho won?", "## Questions of law\nWho won?"),
        ("Who won the cup?", "Who won the cup?"),
    ],
)
def test_the_question_in_a_prompt(text: str, asked: str) -> None:
    assert question(text) == asked


def test_a_long_question_is_cut_to_both_ends() -> None:
    found = question("begin " + "x" * 9000 + " end?")
    assert found.startswith("begin")
    assert found.endswith("end?")
    assert len(found) < 2100


def test_questions_that_go_on_from_another() -> None:
    assert follows_up("And when was he born?")
    assert follows_up("What is its capital?")
    assert not follows_up("When was Marie Curie born?")
    assert not follows_up("What is the area and the population of Peru?")
    assert not follows_up("¿Cuál es la capital de Francia?")
