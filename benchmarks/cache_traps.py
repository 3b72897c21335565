"""Traps for a semantic cache: questions that one small edit makes into other questions, and edits that change nothing.

A library for benchmarks/cache.py. The word lists below are written from general knowledge and on purpose not taken
from those that the guards use (cache/words): a guard that was measured on its own list would measure nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator

Trap = tuple[str, str, str]

OPPOSITES = """hot cold|fast slow|cheap expensive|increase decrease|gain lose|buy sell|start stop|open close|win lose
|advantages disadvantages|legal illegal|good bad|best worst|safe dangerous|healthy unhealthy|strong weak
|rich poor|happy sad|love hate|import export|upload download|install uninstall|enable disable|lock unlock
|encrypt decrypt|public private|male female|men women|boys girls|husband wife|mother father|before after
|more less|highest lowest|biggest smallest|longest shortest|oldest newest|easy hard|easiest hardest|early late
|remove add|accept reject|include exclude|maximum minimum|positive negative|inside outside|above below
|north south|east west|left right|summer winter|possible impossible|possibly impossibly|visible invisible
|connect disconnect|appear disappear|like dislike|agree disagree|married unmarried|employed unemployed
|active inactive|direct indirect|up down|benefits risks|profit loss|raise lower|push pull|full empty|high low
|long short|old young|thick thin|rise fall|pros cons|first last|true false|success failure|succeed fail
|friend enemy|hire fire|attack defend|borrow lend|teach learn|create delete|expand shrink|input output
|sender receiver|employer employee|vegetarian carnivorous|asleep awake|wet dry|clean dirty|introvert extrovert
|optimist pessimist|synchronous asynchronous|mutable immutable|compress decompress|mount unmount
|loosen tighten|heating cooling|boil freeze|ancient modern|urban rural|major minor|permanent temporary
|wider narrower|bigger smaller|taller shorter|heavier lighter|better worse|faster slower|follow unfollow
|subscribe unsubscribe|block unblock|save spend|arrive depart|arrival departure|ascending descending
|horizontal vertical|internal external"""

NAMES = {
    "country": "India China Brazil Germany Nigeria Japan Canada Mexico Egypt Vietnam Poland Kenya Sweden Chile Peru",
    "city": "London Tokyo Mumbai Paris Berlin Toronto Sydney Lagos Madrid Chicago Boston Seattle Delhi Dubai",
    "firm": "Google Microsoft Apple Amazon Facebook Samsung Toyota Netflix Uber Tesla Nokia Siemens Infosys Oracle",
    "person": "Trump Obama Clinton Modi Putin Merkel Einstein Newton Gandhi Lincoln Shakespeare Mozart Messi Ronaldo",
    "code": "Python Java JavaScript Ruby Rust Haskell Perl Kotlin Swift Scala PHP Golang",
    "tongue": "English French Spanish German Hindi Mandarin Arabic Russian Korean Portuguese Tamil Italian",
    "product": "iPhone Android Windows Linux Photoshop Excel WhatsApp Instagram Twitter YouTube Snapchat Gmail Quora",
    "planet": "Mars Venus Jupiter Saturn Mercury Neptune",
    "school": "Harvard Stanford Oxford Cambridge Yale Princeton MIT",
    "faith": "Christianity Islam Hinduism Buddhism Judaism",
}

UNITS = {
    "length": "km miles|kilometers miles|meters feet|inches centimeters|cm inches|yards metres",
    "mass": "kg pounds|grams ounces|kilograms pounds|tons pounds",
    "time": "days weeks|months years|hours minutes|minutes seconds|weeks months|days hours|day month|week year",
    "money": "dollars euros|rupees dollars|USD EUR|pounds euros|$ €",
    "heat": "celsius fahrenheit|Celsius Kelvin",
    "data": "MB GB|gigabytes terabytes|KB MB",
    "volume": "liters gallons|ml ounces|cups tablespoons",
    "speed": "mph kmph",
}

DATES = {
    "month": "January February March April June July August September October November December",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
}

WHO = """cats dogs|tigers cats|teachers students|doctors patients|parents children|men women|Indians Pakistanis
|lions hyenas|managers employees|Germany France|plants animals|humans robots|nurses surgeons|sharks whales"""
DOES = """afraid of|jealous of|stronger than|attracted to|dependent on|angry at|responsible for|superior to|kinder than
|more intelligent than|loyal to|dangerous to"""
VERBS = "love fear attack help teach copy follow hate eat trust need ignore blame protect hire"
FROM_TO = "km miles|euros dollars|PDF Word|JSON XML|Paris London|Java Kotlin|MP4 MP3|Celsius Fahrenheit|New York Boston"
CAUSES = "stress insomnia|poverty crime|inflation unemployment|anxiety depression|smoking drinking|lightning thunder"

CODE = [
    ("`{}` raises KeyError", "user_id account_id|getName setName|parse_args parse_known_args|json.load json.dump"),
    ("How do I call {} in my script?", "os.path.join os.path.split|np.argmax np.argmin|list.append list.extend"),
    ("What does the file {} contain?", "/etc/passwd /etc/shadow|/var/log/syslog /var/log/auth.log|~/.bashrc ~/.zshrc"),
    ("What is served at {} and why?", "https://example.com/a https://example.com/b|http://foo.org http://bar.org"),
    ("Who owns the mailbox {}?", "ann@example.com bob@example.com|info@foo.org sales@foo.org"),
    ("What changed in version {}?", "3.10.1 3.11.1|v2.0 v3.0|1.2.3 1.2.4|2.7 3.7"),
    ("What does commit {} change?", "9fceb02 8ab686e|deadbeef cafebabe|0x1f4 0x1f5"),
    ("What does the flag {} do in git?", "--hard --soft|-a -b|--cached --staged-only"),
    ("What does HTTP status {} mean for a client?", "404 403|502 503|301 302"),
    ("How do I fix error {}?", "E0308 E0382|ORA-00942 ORA-00955|0x80070005 0x80070057"),
    ("Which port does {} use?", "mysqld postgres|nginx redis-server|sshd ftpd"),
    ("How do I run {} on start-up?", "docker-compose docker-swarm|npm_start npm_test|foo.py bar.py"),
    ("What does the operator {} do in C?", "&& ||" + "|++ --|<< >>|== !="),
]

JOBS = [
    "You are a careful professional translator. Translate the text below from English to {a}. Keep names, numbers and"
    " formatting as they are, use a formal register, do not add explanations, and answer with the translation only. If"
    " something is ambiguous choose the most common meaning. The text to translate is given between the marks."
    " <<< {b} >>> Remember: translation only, no notes.",
    "Classify the customer message into exactly one of these labels: billing, shipping, returns, technical, other. Read"
    " the whole message first, think about what the customer wants to have done, then answer with the label alone and"
    " nothing else, in lower case, without punctuation. The account language is {a}. The message follows on the next"
    " line and ends with the message.\n\n{b}",
]

OUTPUTS = [
    "Answer in one word.",
    "Answer as JSON.",
    "Answer in French.",
    "Answer in three sentences.",
    "Answer as a table.",
]


def traps(questions: Iterable[str], seed: int) -> list[Trap]:
    """(class, a question, another that only looks like it), made of the questions and of a few patterns."""
    rng = random.Random(seed)
    found: list[Trap] = []
    for question in questions:
        for kind, edit in _EDITS:
            other = edit(question, rng)
            if other is not None and other != question:
                found.append((kind, question, other))
        if rng.random() < 0.05:
            a, b = rng.sample(_split(NAMES["tongue"]), 2)
            job = rng.choice(JOBS)
            found.append(("template", job.format(a=a, b=question), job.format(a=b, b=question)))
    found += _jobs(questions, rng)
    found += _patterns()
    return found


def rewrites(questions: Iterable[str], seed: int) -> list[Trap]:
    """(class, a question, the same question written another way)."""
    rng = random.Random(seed)
    found: list[Trap] = []
    for question in questions:
        for kind, edit in _HARMLESS:
            other = edit(question, rng)
            if other is not None and other != question:
                found.append((kind, question, other))
    return found


# --- edits that make another question ---

_NUMBER_WORDS = tuple(
    "two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred".split()  # noqa: SIM905
)
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]


def _digits(q: str, rng: random.Random) -> str | None:
    found = list(re.finditer(r"(?<![\w.])\d+(?![\w.]*[A-Za-z])", q))
    if not found:
        return None
    at = rng.choice(found)
    value = int(at.group()[:9])
    other = rng.choice([value + 1, value * 10, max(0, value - 1), value + rng.randint(2, 30)])
    return q[: at.start()] + str(other if other != value else value + 7) + q[at.end() :]


def _number_word(q: str, rng: random.Random) -> str | None:
    return _swap_within(q, rng, [_NUMBER_WORDS])


def _ordinal(q: str, rng: random.Random) -> str | None:
    return _swap_within(q, rng, [[word for word in _ORDINALS if word != "second"]])


def _added_number(q: str, rng: random.Random) -> str | None:
    """Two copies that differ in a number, where the question had none."""
    found = re.search(r"\b(ways|tips|books|movies|reasons|things|days|weeks|months|years|steps|people|countries)\b", q)
    if not found or re.search(r"\d", q):
        return None
    return q[: found.start()] + rng.choice(["5 ", "ten ", "12 ", "twenty-one ", "100 "]) + q[found.start() :]


_AUXILIARY = re.compile(r"\b(is|are|was|were|can|could|should|would|will|do|does|did|has|have|must)\b", re.IGNORECASE)
_AFTER_SUBJECT = re.compile(r"\b(should|can|could|would|do|does|did|will|must) (I|you|we|they|people|it|he|she|one)\b")


def _not(q: str, rng: random.Random) -> str | None:
    if re.search(r"\b(not|no|never|without|cannot)\b|n['’]t\b", q, re.IGNORECASE):
        return None
    found = _AFTER_SUBJECT.search(q)
    if found:
        return q[: found.end()] + rng.choice([" not", " never"]) + q[found.end() :]
    found = _AUXILIARY.search(q)
    if not found or found.group().lower() == "have":
        return None
    if found.group().lower() in ("is", "are", "was", "were", "do", "does", "did", "should", "could", "would", "has"):
        return q[: found.end()] + "n't" + q[found.end() :]
    return q[: found.end()] + " not" + q[found.end() :]


def _dropped_not(q: str, rng: random.Random) -> str | None:
    if len(re.findall(r"\b(?:not|never|no|without)\b|n['’]t\b", q, re.IGNORECASE)) != 1:
        return None
    if re.search(r"\bor not\b", q):
        return None
    if re.search(r"\bwithout\b", q):
        return re.sub(r"\bwithout\b", "with", q)
    return re.sub(r"(?:\s+\b(?:not|never)\b|n['’]t\b)", "", re.sub(r"\b[Cc]an['’]t\b", "can", q))


def _with(q: str, rng: random.Random) -> str | None:
    return re.sub(r"\bwith\b", "without", q, count=1) if re.search(r"\bwith\b", q) else None


def _avoid(q: str, rng: random.Random) -> str | None:
    if re.match(r"How (do|can|should) (I|you|we) \w+", q) is None:
        return None
    way = rng.choice([r"\1 avoid having to", r"\1 stop trying to", r"\1 not"])
    return re.sub(r"^(How (?:do|can|should) (?:I|you|we))", way, q)


def _negated_opening(q: str, rng: random.Random) -> str | None:
    for plain, negated in (
        ("Why do ", "Why don't "),
        ("Why is ", "Why isn't "),
        ("Can ", "Can't "),
        ("What are ", "What are not "),
    ):
        if q.startswith(plain):
            return negated + q[len(plain) :]
    return None


def _opposite(q: str, rng: random.Random) -> str | None:
    return _swap_within(q, rng, [pair.split() for pair in OPPOSITES.replace("\n", "").split("|")])


def _name(q: str, rng: random.Random) -> str | None:
    return _swap_within(q, rng, [_split(names) for names in NAMES.values()], fold=False)


def _name_lower(q: str, rng: random.Random) -> str | None:
    other = _name(q, rng)
    return None if other is None else other.lower()


def _unit(q: str, rng: random.Random) -> str | None:
    return _swap_within(q, rng, [pair.split() for pairs in UNITS.values() for pair in pairs.split("|")])


def _date(q: str, rng: random.Random) -> str | None:
    year = re.search(r"\b(?:19|20)\d\d\b", q)
    if year:
        return q[: year.start()] + str(int(year.group()) + rng.choice([-2, -1, 1, 3])) + q[year.end() :]
    return _swap_within(q, rng, [_split(names) for names in DATES.values()], fold=False)


def _than(q: str, rng: random.Random) -> str | None:
    return _around(q, r"(\w+) (better than|worse than|bigger than|more popular than|cheaper than) (\w+)")


def _from_to(q: str, rng: random.Random) -> str | None:
    return _around(q, r"\bfrom (\w+) (to) (\w+)", "from ")


def _asks(q: str, rng: random.Random) -> str | None:
    for ours, others in (
        ("When did ", ["Why did ", "Where did "]),
        ("When was ", ["Why was ", "Where was "]),
        ("Where is ", ["When is ", "Why is "]),
        ("Who is ", ["Where is "]),
        ("Why did ", ["When did "]),
        ("How many ", ["Which "]),
        ("How old ", ["How tall "]),
    ):
        if q.startswith(ours):
            return rng.choice(others) + q[len(ours) :]
    return None


_EDITS: list[tuple[str, Callable[[str, random.Random], str | None]]] = [
    ("number", _digits),
    ("number", _number_word),
    ("number", _ordinal),
    ("number", _added_number),
    ("negation", _not),
    ("negation", _dropped_not),
    ("negation", _with),
    ("negation", _avoid),
    ("negation", _negated_opening),
    ("antonym", _opposite),
    ("entity", _name),
    ("entity", _name_lower),
    ("unit", _unit),
    ("date", _date),
    ("role", _than),
    ("role", _from_to),
    ("question type", _asks),
]


def _jobs(questions: Iterable[str], rng: random.Random) -> Iterator[Trap]:
    """One template, two texts: what a translation service sends all day."""
    texts = list(questions)
    for _ in range(min(60, len(texts) // 2)):
        first, second = rng.sample(texts, 2)
        job = rng.choice(JOBS)
        yield "template", job.format(a="French", b=first), job.format(a="French", b=second)
        how = rng.sample(OUTPUTS, 2)
        yield "output", f"{first} {how[0]}", f"{first} {how[1]}"


def _patterns() -> Iterator[Trap]:
    for pair in _pairs(WHO):
        a, b = pair
        for does in DOES.replace("\n", "").split("|"):
            yield "role", f"Why are {a} {does} {b}?", f"Why are {b} {does} {a}?"
        for verb in VERBS.split():
            yield "role", f"Do {a} {verb} {b}?", f"Do {b} {verb} {a}?"
            yield "role", f"Why would {a} {verb} the {b} so much?", f"Why would {b} {verb} the {a} so much?"
    for row in FROM_TO.split("|"):
        a, b = row.split() if "New" not in row else ["New York", "Boston"]
        yield "role", f"How do I convert {a} to {b}?", f"How do I convert {b} to {a}?"
        yield "role", f"What is the way from {a} to {b} in practice?", f"What is the way from {b} to {a} in practice?"
    for a, b in _pairs(CAUSES):
        yield "role", f"Can {a} cause {b}?", f"Can {b} cause {a}?"
        yield "role", f"Is {a} the result of {b}?", f"Is {b} the result of {a}?"
    for frame, pairs in CODE:
        for a, b in [("&&", "||"), ("++", "--"), ("<<", ">>"), ("==", "!=")] if "operator" in frame else _pairs(pairs):
            yield "code", frame.format(a), frame.format(b)
    for pairs in UNITS.values():
        for a, b in _pairs(pairs):
            yield "unit", f"How much is 25 {a} worth in practice?", f"How much is 25 {b} worth in practice?"
    for tail in ("does the shop open", "is the next flight to Rome", "was the contract signed"):
        yield "date", f"When {tail} on Monday the 3rd of May?", f"When {tail} on Tuesday the 3rd of May?"
        yield "date", f"When {tail} at 5 pm?", f"When {tail} at 5 am?"
        yield "date", f"When {tail} on 2014-03-02?", f"When {tail} on 2014-03-12?"
        yield "date", f"When {tail} in May?", f"When {tail} in June?"
    for a, b in (
        ("Wie lerne ich schnell Klavier?", "How do I learn the piano fast?"),
        ("Comment apprendre le piano rapidement ?", "How do I learn the piano fast?"),
        ("¿Cómo puedo aprender a tocar el piano?", "How can I learn to play the piano?"),
    ):
        yield "language", a, b


# --- edits that change nothing ---


def _case(q: str, rng: random.Random) -> str | None:
    return rng.choice([q.lower(), q.upper(), q[0].lower() + q[1:]])


def _punctuation(q: str, rng: random.Random) -> str | None:
    return rng.choice([q.rstrip("?.!"), q.rstrip("?.!") + "??", q.rstrip("?.!") + ".", q.replace(",", "")])


def _polite(q: str, rng: random.Random) -> str | None:
    start = q if q.startswith("I ") or q[:2].isupper() else q[0].lower() + q[1:]
    return rng.choice(
        [
            "Please tell me: " + q,
            "Can you tell me, " + start,
            q.rstrip() + " Thanks!",
            "Could you please explain " + start,
            "Hi! " + q,
            "Hello there, " + start,
            q.rstrip() + " Please help.",
            "Hey, quick question: " + start,
        ]
    )


_SHORT = {
    "what is": "what's",
    "who is": "who's",
    "do not": "don't",
    "does not": "doesn't",
    "can not": "can't",
    "cannot": "can't",
    "is not": "isn't",
    "I am": "I'm",
    "it is": "it's",
    "how is": "how's",
    "did not": "didn't",
    "will not": "won't",
    "should not": "shouldn't",
    "are not": "aren't",
    "where is": "where's",
    "I have": "I've",
}


def _contracted(q: str, rng: random.Random) -> str | None:
    other = q
    for long, short in _SHORT.items():
        other = re.sub(rf"\b{long}\b", short, other)
        other = re.sub(rf"\b{long.capitalize()}\b", short.capitalize() if long[0] != "I" else short, other)
    if other == q:
        for long, short in _SHORT.items():
            other = re.sub(rf"\b{short}\b", long, other)
            other = re.sub(rf"\b{short.capitalize()}\b", long.capitalize() if long[0] != "I" else long, other)
    return other


def _spacing(q: str, rng: random.Random) -> str | None:
    return rng.choice([q.replace(" ", "  "), "  " + q + "\n", q.replace("?", " ?"), q.replace(" ", "\n", 1)])


_BRITISH = {
    "color": "colour",
    "favorite": "favourite",
    "center": "centre",
    "organize": "organise",
    "behavior": "behaviour",
    "program": "programme",
    "license": "licence",
    "realize": "realise",
    "analyze": "analyse",
    "labor": "labour",
    "traveling": "travelling",
    "humor": "humour",
    "flavor": "flavour",
    "theater": "theatre",
    "catalog": "catalogue",
    "apologize": "apologise",
    "gray": "grey",
    "fulfill": "fulfil",
    "defense": "defence",
    "meter": "metre",
}


def _spelling(q: str, rng: random.Random) -> str | None:
    other = q
    for american, british in _BRITISH.items():
        other = re.sub(rf"\b{american}(s|d|r|ed|ing)?\b", lambda m, b=british: b + (m[1] or ""), other)  # type: ignore[misc]
    return other


_OPENERS = [
    ("How do I ", ["How can I ", "How to ", "What is the best way to ", "What's the way to ", "How should I "]),
    ("How can I ", ["How do I ", "How could I ", "What is a good way to ", "How to "]),
    ("What is the best way to ", ["How do I best ", "What's the best way to ", "Which is the best way to "]),
    ("What are the ", ["Which are the ", "Tell me the ", "List the ", "What're the "]),
    ("What is the ", ["What's the ", "Tell me the ", "Which is the "]),
    ("Why is ", ["How come ", "What is the reason "]),
    ("Is it possible to ", ["Can one ", "Is there a way to "]),
    ("How does ", ["In what way does "]),
]


def _opener(q: str, rng: random.Random) -> str | None:
    for ours, others in _OPENERS:
        if q.startswith(ours):
            return rng.choice(others) + q[len(ours) :]
    return None


_HARMLESS: list[tuple[str, Callable[[str, random.Random], str | None]]] = [
    ("case", _case),
    ("punctuation", _punctuation),
    ("politeness", _polite),
    ("contraction", _contracted),
    ("spacing", _spacing),
    ("spelling", _spelling),
    ("opener", _opener),
]


def _swap_within(q: str, rng: random.Random, groups: list[list[str]], fold: bool = True) -> str | None:
    """The question with one word of a group replaced by another of the same group, in the same case."""
    words = set(re.findall(r"\w+|[$€]", q.lower() if fold else q))
    hits = [(word, group) for group in groups for word in group if word in words]
    if not hits:
        return None
    word, group = rng.choice(hits)
    others = [w for w in group if w != word and w.lower() not in q.lower()]
    if not others:
        return None
    other = rng.choice(others)
    edge = r"\b" if word[0].isalnum() else ""
    return re.sub(
        rf"{edge}{re.escape(word)}{edge}",
        lambda m: other.capitalize() if m.group()[0].isupper() and other.islower() else other,
        q,
        count=1,
        flags=re.IGNORECASE if fold else 0,
    )


def _around(q: str, pattern: str, before: str = "") -> str | None:
    found = re.search(pattern, q)
    if not found or found[1].lower() == found[3].lower():
        return None
    return f"{q[: found.start()]}{before}{found[3]} {found[2]} {found[1]}{q[found.end() :]}"


def _pairs(rows: str) -> list[tuple[str, str]]:
    return [(pair.split()[0], pair.split()[1]) for pair in rows.replace("\n", "").split("|")]


def _split(words: str) -> list[str]:
    return words.split()
