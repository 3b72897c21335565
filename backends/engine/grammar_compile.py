"""Grammars of a model's answers, compiled: from a form (`grammar_request.py`) to what a grammar starts from.

The work is llguidance's: JSON Schema to an Earley grammar over a lazily built lexer, and masks over the vocabulary in
microseconds. Compiling may take a second for the largest schema, so it belongs on a worker's thread, where it holds no
lock of Python's; its size and fuel are bounded. Knows the tokens' bytes; nothing of requests in flight.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from ...protocol.errors import InvalidRequest
from .grammar_finite import ends
from .grammar_request import Form, Schema
from .tokenizer import Tokenizer

_KEPT = 32  # compiled grammars; one may hold some tens of megabytes of a hostile schema's lexer
_LIMITS = LLParserLimits(max_lexer_states=20_000, verbose_errors=False)
_SPACE = r"[ \n\t]{0,32}"  # a small model can write blanks for ever
_MOST_TEXT = 1_000_000
_PROBES = 400  # parts of a refused schema that are tried to find the place that is refused
_MOST_CALLS = 16
_PARTS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_ONES = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a grammar must know of a tokenizer. `bytes` has nothing for a control token, whose name `names` has."""

    bytes: Sequence[bytes]
    names: Callable[[int], str]
    ends: frozenset[int]
    encode: Callable[[str], list[int]]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        return cls(tokenizer.bytes, tokenizer.text, frozenset(tokenizer.ends), tokenizer.encode)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A grammar at its beginning; `size` is of its text, in characters, and `where` the field it came from."""

    start: LLMatcher
    vocabulary: Vocabulary
    letters: tuple[int, ...]  # the token of each single byte, or -1
    required: tuple[bytes, ...]  # the names that some object must have, as JSON spells them
    size: int
    where: str


class Compiler:
    """Makes and keeps the grammars of one model. `compile` may be called on any thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._letters = _letters(vocabulary.bytes)
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[Form, Compiled] = OrderedDict()

    def compile(self, form: Form) -> Compiled:
        """Raises InvalidRequest for what no answer can be, what is not supported, and what is too large."""
        with self._lock:
            if form in self._kept:
                self._kept.move_to_end(form)
                return self._kept[form]
            # A tenth of a second, once.
            self._tokenizer = self._tokenizer or _tokenizer(self._vocabulary)
        text = _lark(form)
        if len(text) > _MOST_TEXT:
            raise InvalidRequest(f"the schemas together are longer than {_MOST_TEXT} characters", param="tools")
        for schema in _schemas(form):
            if not ends(json.loads(schema.text)):
                said = f"no answer can be made to fit '{schema.where}': it would have to hold itself, without end"
                raise InvalidRequest(said, param=schema.where)
        start = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(text), log_level=0, limits=_LIMITS)
        if not start.is_error():
            start.compute_bitmask()  # what is empty shows only now
        if start.is_error() or start.is_stopped():
            raise _refusal(form, start.get_error())
        schemas = _schemas(form)
        required = tuple(dict.fromkeys(name for schema in schemas for name in _required(json.loads(schema.text))))
        compiled = Compiled(start, self._vocabulary, self._letters, required, len(text), schemas[0].where)
        with self._lock:
            self._kept[form] = compiled
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return compiled


def _lark(form: Form) -> str:
    rules, starts = [], []
    if form.schema is not None:
        starts.append("value")
        rules.append(f"value: {_json(form.schema)}")
    if form.functions:
        more = f' ("\\n" call){{0,{_MOST_CALLS - 1}}}' if form.several else ""
        starts.append("calls")
        rules.append("calls: call" + more)
        names = " | ".join(f"c{i}" for i in range(len(form.functions)))
        rules.append(f'call: "<tool_call>\\n" ({names}) "\\n</tool_call>"')
        for i, (name, schema) in enumerate(form.functions):
            head = json.dumps(f'{{"name": "{name}", "arguments": ')
            rules.append(f'c{i}: {head} a{i} "}}"\na{i}: {_json(schema)}')
    return "\n".join([f"start: {' | '.join(starts)}", *rules])


def _json(schema: Schema) -> str:
    return "%json " + json.dumps({**json.loads(schema.text), **_options(schema)}, ensure_ascii=False)


def _options(schema: Schema) -> dict[str, Any]:
    return {"x-guidance": {"whitespace_pattern": _SPACE, "lenient": not schema.strict}}


def _schemas(form: Form) -> list[Schema]:
    return ([form.schema] if form.schema is not None else []) + [schema for _, schema in form.functions]


def _refusal(form: Form, error: str) -> InvalidRequest:
    """The error of a form that does not compile, with the deepest place of a schema that does not by itself."""
    for schema in _schemas(form):
        root = json.loads(schema.text)
        found = _why(root, schema)
        if found is None:
            continue
        where, left = schema.where, _PROBES
        shared = {name: root[name] for name in ("$defs", "definitions") if name in root}
        part, deeper = root, True
        while deeper and left > 0:
            deeper = False
            for name, inner in _parts(part):
                left -= 1
                why = _why({**shared, **inner}, schema)
                if why is not None and left > 0:
                    part, where, found, deeper = inner, f"{where}.{name}", why, True
                    break
        return InvalidRequest(f"no answer can be made to fit '{where}': {found}", param=where)
    where = _schemas(form)[0].where
    return InvalidRequest(f"no answer can be made to fit '{where}': {_first_line(error)}", param=where)


def _why(part: dict[str, Any], schema: Schema) -> str | None:
    """Why a schema does not compile by itself; None if it does."""
    text = LLMatcher.grammar_from_json_schema({**part, **_options(schema)})
    error = LLMatcher.validate_grammar(text, limits=_LIMITS)
    return None if not error or error.startswith("WARNING") else _first_line(error)


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for keyword in _PARTS:
        inner = schema.get(keyword)
        if isinstance(inner, dict):
            yield from ((f"{keyword}.{name}", part) for name, part in inner.items() if isinstance(part, dict))
    for keyword in _LISTS:
        several = schema.get(keyword)
        if isinstance(several, list):
            yield from ((f"{keyword}[{i}]", part) for i, part in enumerate(several) if isinstance(part, dict))
    for keyword in _ONES:
        if isinstance(schema.get(keyword), dict):
            yield keyword, schema[keyword]


def _first_line(error: str) -> str:
    lines = [line.strip() for line in error.splitlines() if line.strip() and "<state>" not in line]
    reason = lines[-1] if lines and lines[0].startswith("regex parse error") else (lines or ["it allows nothing"])[0]
    return reason.removeprefix("error: ").split("failed to compile JSON schema: ")[-1][:200]


def _required(schema: Any) -> Iterator[bytes]:
    """The names under every `required`; its depth is bounded before."""
    if isinstance(schema, dict):
        names = schema.get("required")
        for name in names if isinstance(names, list) else ():
            yield json.dumps(name, ensure_ascii=False)[1:-1].encode("utf-8", "replace")
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _required(inner)


def _letters(tokens: Sequence[bytes]) -> tuple[int, ...]:
    found = [-1] * 256
    for i, data in enumerate(tokens):
        if len(data) == 1:
            found[data[0]] = i
    return tuple(found)


def _tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    # The library wants an end token; a model without one ends by length alone.
    ends = sorted(vocabulary.ends) or [0]
    return LLTokenizer(TokenizerWrapper(_Tokens(vocabulary, ends[0])), eos_token=ends, slices=LLTokenizer.json_slices())


class _Tokens:
    """A vocabulary as the library asks for it: a control token's bytes begin with 0xFF, which no text has."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, end: int) -> None:
        self.eos_token_id = end
        self.tokens = [b or b"\xff" + vocabulary.names(i).encode() for i, b in enumerate(vocabulary.bytes)]
        self.special_token_ids = [i for i, b in enumerate(vocabulary.bytes) if not b]
        self._encode = vocabulary.encode

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))
