"""Vetoes: what makes two wordings different questions, and what does not."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cache import lexicon
from trimtab.cache.stems import near, stem
from trimtab.cache.vetoes import VETOES, differ, veto
from trimtab.cache.wording import Wording

LONG = (
    "You are a careful translator. Translate the text between the marks from English to {}. Keep every name, number and"
    " the formatting, use a formal register, add no explanation of your own, answer with the translation alone, and if"
    " a passage is ambiguous choose its most common meaning without a note about it. The text begins here and ends with"
    " the last mark. <<< {} >>> Remember: the translation and nothing else, please."
)

DIFFERENT = {
    "number": [
        ("What are 5 tips for sleep?", "What are 6 tips for sleep?"),
        ("What are five tips for sleep?", "What are six tips for sleep?"),
        ("What are five tips for sleep?", "What are tips for sleep?"),
        ("Who was the third president?", "Who was the fourth president?"),
        ("Who won World War II?", "Who won World War III?"),
        ("What is 1/2 of a cup?", "What is 1/3 of a cup?"),
        ("What is half of a cup?", "What is a quarter of a cup?"),
        ("Can I spend 50% of it?", "Can I spend 50 of it?"),
        ("How do I gain in 5-10 days?", "How do I gain in 5-15 days?"),
        ("Is 1,000 enough?", "Is 10,000 enough?"),
        ("Is 1k enough?", "Is 1m enough?"),
        ("Is 3.5 enough?", "Is 35 enough?"),
        ("Is 5 and 5 enough?", "Is 5 enough?"),
        ("What is the best laptop under Rs.25000?", "What is the best laptop under Rs.35000?"),
        ("Is -5 degrees cold?", "Is 5 degrees cold?"),
        ("Which is the best phone of 2014?", "Which is the best phone of 2015?"),
        ("What is twenty-one squared?", "What is twenty-two squared?"),
        ("Is two hundred thousand a lot?", "Is two hundred a lot?"),
        ("What is " + "9" * 500 + "1?", "What is " + "9" * 500 + "2?"),
        ("What is section.2 about?", "What is section.3 about?"),
    ],
    "unit": [
        ("How far is 5 km on foot?", "How far is 5 miles on foot?"),
        ("How much is 20 USD?", "How much is 20 EUR?"),
        ("How much is $20?", "How much is €20?"),
        ("Can I learn it in 2 months?", "Can I learn it in 2 years?"),
        ("Is 30 °C hot?", "Is 30 °F hot?"),
        ("Is 8GB enough?", "Is 8MB enough?"),
    ],
    "date": [
        ("Is the bank open on Monday?", "Is the bank open on Tuesday?"),
        ("What is the weather like in May?", "What is the weather like in June?"),
        ("When is it on 5 pm?", "When is it on 5 am?"),
        ("Is it open in winter?", "Is it open in summer?"),
    ],
    "negation": [
        ("Is it safe to eat?", "Isn't it safe to eat?"),
        ("Why do people vote?", "Why do people not vote?"),
        ("How do I pay with a card?", "How do I pay without a card?"),
        ("Can I ever go back?", "Can I never go back?"),
        ("How do I write a cheque?", "How do I avoid writing a cheque?"),
        ("How do I write a cheque?", "How do I stop trying to write a cheque?"),
        ("Why can dogs swim?", "Why cant dogs swim?"),
        ("Which fruits are berries?", "Which fruits are not berries?"),
        ("Wie kann ich das Konto löschen und warum?", "Wie kann ich das Konto nicht löschen und warum?"),
        ("Pourquoi est-ce que le chat mange les fleurs ?", "Pourquoi est-ce que le chat ne mange pas les fleurs ?"),
    ],
    "antonym": [
        ("Where can I buy gold?", "Where can I sell gold?"),
        ("Is it legal to fish here?", "Is it illegal to fish here?"),
        ("What is the cheapest car?", "What is the most expensive car?"),
        ("Which is the bigger ocean?", "Which is the smaller ocean?"),
        ("How do I encrypt a disk?", "How do I decrypt a disk?"),
        ("How do I upload a file?", "How do I download a file?"),
        ("What happens before dinner?", "What happens after dinner?"),
        ("Is it useful to nap?", "Is it useless to nap?"),
        ("Is it possible to fly?", "Is it impossible to fly?"),
        ("What is the best phone?", "What is the worst phone?"),
        ("What are the rights of male nurses?", "What are the rights of female nurses?"),
        ("How do I teach maths, and learn it?", "How do I learn maths, and learn it?"),
        ("Is an overestimate bad?", "Is an underestimate bad?"),
        ("How do I increase traffic?", "How do I decrease traffic?"),
    ],
    "thing": [
        ("How do I tune a guitar?", "How do I tune a piano?"),
        ("Can dogs eat grapes?", "Can cats eat grapes?"),
    ],
    "entity": [
        ("What is the population of New York City?", "What is the population of New York State?"),
        ("What Is The Population Of New York City?", "What Is The Population Of New York State?"),
        ("new york city population", "new york state population"),
        ("WHAT IS NEW YORK CITY LIKE?", "WHAT IS NEW YORK STATE LIKE?"),
        ("What is the Golden Gate Bridge?", "What is the Golden Gate Park?"),
        ("Where is the University of Washington?", "Where is the State of Washington?"),
        ("Who wrote The Old Man and the Sea?", "Who wrote The Old Man and the Mountain?"),
        ("What does vitamin C do?", "What does vitamin D do?"),
        ("what does hepatitis b do", "what does hepatitis c do"),
        ("What is Type A behaviour?", "What is Type B behaviour?"),
        ("What is the capital of Kenya?", "What is the capital of Sweden?"),
        ("what is the capital of kenya?", "what is the capital of sweden?"),
        ("How do I learn Python?", "How do I learn Java?"),
        ("How do I root a xyzphone?", "How do I root a qrsphone?"),
        ("What did Einstein say?", "What did Newtonelli say?"),
        ("How do I say it in French?", "How do I say it in Spanish?"),
        ("How do I use NASA data?", "How do I use ESA data?"),
        ("Where is Iran?", "Where is Iraq?"),
    ],
    "code": [
        ('What does "carpe diem" mean?', 'What does "tempus fugit" mean?'),
        ("What does `user_id` do?", "What does `account_id` do?"),
        ("How do I call os.path.join here?", "How do I call os.path.split here?"),
        ("What is in /etc/passwd now?", "What is in /etc/shadow now?"),
        ("What is at https://example.com/a then?", "What is at https://example.com/b then?"),
        ("Who is ann@example.com there?", "Who is bob@example.com there?"),
        ("What does commit deadbeef1 do?", "What does commit cafebabe1 do?"),
        ("What does --hard do?", "What does --soft do?"),
        ("What does && do in C?", "What does || do in C?"),
        ("What is 3 + 4?", "What is 3 * 4?"),
        ("What is json.load for?", "What is json.loads for?"),
    ],
    "role": [
        ("Why are cats afraid of tigers?", "Why are tigers afraid of cats?"),
        ("How do I convert sand to glass?", "How do I convert glass to sand?"),
        ("Do dogs eat plants?", "Do plants eat dogs?"),
        ("Is tea better than coffee?", "Is coffee better than tea?"),
        ("How do I fly from New York to Los Angeles?", "How do I fly from Los Angeles to New York?"),
        ("Who did Brutus kill?", "Who killed Brutus?"),
        ("Who did Napoleon defeat at Waterloo?", "Who defeated Napoleon at Waterloo?"),
        ("Should I eat before exercise?", "Should I exercise before eat?"),
    ],
    "language": [
        ("How do I learn the piano?", "Wie lerne ich das Klavier und die Geige?"),
        ("What is love?", "что такое любовь?"),
    ],
    "question type": [
        ("When was the bridge built?", "Where was the bridge built?"),
        ("Who is the manager?", "Where is the manager?"),
        ("How many people live there?", "Why do people live there?"),
        ("What is rain?", "Why is rain?"),
    ],
    "output": [
        ("What are planets? Answer as a table.", "What are planets? Answer in a poem."),
        ("Describe rain as JSON.", "Describe rain as a table."),
    ],
    "template": [
        (LONG.format("French", "The cat sat on the mat."), LONG.format("French", "The dog sat on the mat.")),
        (LONG.format("French", "The cat sat."), LONG.format("German", "The cat sat.")),
        ("Translate to French: good morning", "Translate to French: good night, friend"),
        ("Summarize this:\nThe king is dead.", "Summarize this:\nThe queen is well."),
    ],
}  # fmt: skip

# Another class may see the same difference first.
PAIRS = [(kind, a, b) for kind, pairs in DIFFERENT.items() for a, b in pairs]

SAME = [
    ("What Is The Best Way To Cook Rice?", "What is the best method to cook rice?"),
    ("How Do I Lose Weight Fast?", "How can I lose weight quickly?"),
    ("What is the capital of New York?", "What is the capital city of New York?"),
    ("How did World War III begin in the film?", "How did World War 3 begin in the film?"),
    ("How IS TO get into MIT?", "How do I get into MIT?"),
    ("How do I learn to swim?", "What is the best way to learn to swim?"),
    ("How do I learn to swim?", "how can i learn to swim"),
    ("What's the meaning of life?", "What is the meaning of life"),
    ("Don't dogs swim?", "Do not dogs swim?"),
    ("Can you tell me how tall giraffes are?", "How tall are giraffes?"),
    ("Hi! What is rain? Thanks a lot", "what is rain"),
    ("What is my favourite colour theory?", "What is my favorite color theory?"),
    ("How do I organise a centre?", "How do I organize a center?"),
    ("What are the top 5 books?", "What are the top five books?"),
    ("Who won World War II?", "who won world war 2?"),
    ("Is 1,000 enough?", "Is 1000 enough?"),
    ("Is 50% enough?", "Is fifty percent enough?"),
    ("In one week?", "In a week?"),
    ("Is a car cheaper here?", "Is an automobile cheaper here?"),
    ("How do I start with no money?", "How do I start without any money?"),
    ("How do I stop smoking?", "How do I quit smoking?"),
    ("How do I not be late?", "How do I avoid being late?"),
    ("Which is better, tea or coffee?", "Which is better, coffee or tea?"),
    ("iPhone vs Android: which?", "Android vs iPhone: which?"),
    ("What is the difference between cats and dogs?", "What is the difference between dogs and cats?"),
    ("How do I sort a list in Python?", "In Python, how do I sort a list?"),
    ("What is Pokémon?", "What is Pokemon?"),
    ("How do I use Node.js?", "how do i use nodejs"),
    ("Is the US president elected?", "Is the president of the USA elected?"),
    ("How do I travel in Germany by German rail?", "how do i travel in germany by german rail"),
    ("What is a comapny?", "What is a company?"),
    ('What does "carpe diem" mean?', "what does carpe diem mean"),
    ("How long is it?", "HOW LONG IS IT?"),
    ("Is it 5 km away?", "Is it 5 kilometers away?"),
    ("How do I use the iPhone X?", "HOW DO I USE THE IPHONE X?"),
    ("What is a good meal on Monday?", "What's a good meal on monday??"),
    ("Rome Marathon 2016: who won the Rome Marathon 2016?", "Who won the Rome Marathon 2016?"),
    ("What is the best laptop under Rs.25000?", "What is the best laptop under 25000 INR?"),
    ("What is the best laptop under 25000INR?", "What is the best laptop under Rs. 25000?"),
    ("What are Trump's policies?", "What are Donald Trump's policies?"),
    ("What is the GREATEST purpose of life?", "What is the greatest purpose of life?"),
    ("How is a T-20 match played?", "How is a T20 match played?"),
    (LONG.format("French", "The cat sat."), "Hello!  " + LONG.format("French", "the cat sat.").replace(" ", "\n")),
    ("Translate to French: good morning", "translate to french:   Good morning"),
]


@pytest.mark.parametrize(("kind", "one", "other"), PAIRS)
def test_different_questions_are_told_apart(kind: str, one: str, other: str) -> None:
    found = {check(Wording(one), Wording(other)) for check in VETOES} - {None}
    assert kind in found or (kind == "number" and found)
    assert veto(one, other) in found
    assert veto(other, one) is not None


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_question_written_otherwise_is_let_pass(one: str, other: str) -> None:
    assert veto(one, other) is None
    assert veto(other, one) is None


@pytest.mark.parametrize(
    "text", [text for pair in SAME for text in pair] + [text for _, *pair in PAIRS for text in pair]
)
def test_a_harmless_change_is_never_a_difference(text: str) -> None:
    assert veto(text, text) is None
    assert veto(text, text + "  ") is None
    assert veto(text, "\n" + text.replace(" ", "  ")) is None
    assert veto(text, "Please tell me: " + text) is None
    assert veto(text, text + " Thanks!") is None
    # What is written in capitals alone has lost which words are names, and no more than that.
    assert veto(text, text.lower()) is None


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_judged_and_the_order_does_not_matter(one: str, other: str) -> None:
    assert bool(veto(one, other)) == bool(veto(other, one))
    assert veto(one, one) is None


WORDS = sorted(
    {word for _, *pair in PAIRS for text in pair for word in text.split() if len(text) < 100}
    | {"not", "-", "(", "I", "II", "½", "1,5", "a/b", "second", "x", "no", "without", "٣", "\ud800", "of", "to", "and"}
)


@given(st.lists(st.sampled_from(WORDS), max_size=14), st.lists(st.sampled_from(WORDS), max_size=14))
def test_the_order_does_not_matter_for_what_looks_like_questions(one: list[str], other: list[str]) -> None:
    a, b = " ".join(one), " ".join(other)
    for check in VETOES:
        assert check(Wording(a), Wording(b)) == check(Wording(b), Wording(a)), check
    assert veto(a, a.upper()) is None or any(word.islower() for word in one)


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=14), st.integers(2, 10**9))
def test_another_number_is_always_another_question(words: list[str], number: int) -> None:
    one, other = (" ".join([*words, "about", str(n), "of", "them"]) for n in (number, number + 1))
    assert veto(one, other) is not None


@given(
    st.lists(st.sampled_from(["how", "tea", "grows", "in", "the", "hills", "near", "rivers"]), min_size=1, max_size=9)
)
def test_a_negation_more_is_always_another_question(words: list[str]) -> None:
    text = " ".join(words)
    for word in ("not", "never", "without"):
        assert veto(text, f"{word} {text}") is not None
        assert veto(text, f"{word} {text} {word}") != "negation", "two of them are none"


@pytest.mark.parametrize(
    "unit",
    [
        '"',
        "`",
        "1",
        "1,",
        "-",
        "a.",
        "please ",
        " thanks",
        "_a",
        "/",
        "1/",
        "not ",
        "a1",
        "aA1_",
        "two ",
        "\n",
        ":",
        "A b",
        "'",
    ],
)
def test_hostile_text_takes_no_time_to_speak_of(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    start = time.process_time()
    veto(text, text + "!")
    short = text[:19_000]
    veto(short, short[:-1] + "!")
    veto(short, "what is " + short[: len(short) // 2])
    assert time.process_time() - start < 20, "quadratic in the length: minutes, not milliseconds"


def test_what_is_too_long_to_read_has_to_be_equal() -> None:
    assert veto("a " * 20_000, "a " * 20_001) == "template"
    assert veto("a " * 20_000, "a " * 20_000) is None


def test_wordings_that_were_read_before_are_compared_alike() -> None:
    for _, one, other in PAIRS:
        assert differ(Wording(one), Wording(other)) == veto(one, other)


def test_stems_bring_forms_and_spellings_together() -> None:
    rows = (
        "make making makes made",
        "organise organize organising organizes",
        "travel travelling traveled",
        "colour colors coloured",
        "man men",
        "category categories",
        "centre center centers",
        "buy bought buying",
        "kill killed",
        "write writing",
        "stop stopped",
    )
    for forms in rows:
        assert len({stem(form) for form in forms.split()}) == 1, forms
    assert len({stem(word) for word in ("car", "care", "cat", "cart", "plan", "plane")}) == 6
    assert near("company", "comapny")
    assert near("company", "compny")
    assert not near("iran", "oman")


def test_the_lists_are_there_with_the_licence_of_what_is_not_ours() -> None:
    assert len(lexicon.common()) > 30_000
    assert len(lexicon.names()) > 5_000
    assert not lexicon.common() & {"kenya", "einstein"}
    folder = lexicon.FOLDER
    assert "Princeton University" in (folder / "WORDNET-LICENSE.txt").read_text()
    assert "WordNet 3.0" in (folder / "antonyms.txt").read_text()[:200]
