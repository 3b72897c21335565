"""A chat as the token ids its model expects, by the chat template inside the weights (jinja2, sandboxed).

The template is a program of the weights' author and the messages are the user's: neither is trusted. A control token is
made only where the template itself writes one; the same words inside a message or a tool stay plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ...protocol.errors import ContextTooLong, InvalidRequest, ModelUnavailable
from .tokenizer import Tokenizer
from .tools import OPEN

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


class ChatTemplate:
    """Turns messages into ids. `now` is the clock that a template's date comes from; `takes_tools`: it has a place for
    them, and writes calls in the form that `tools.py` reads."""

    def __init__(self, source: str | None, tokenizer: Tokenizer, now: Callable[[], datetime]) -> None:
        """`source` None: the plain form that most models know. Raises ModelUnavailable when it does not compile."""
        source = source or _CHATML
        self._tokenizer = tokenizer
        self.takes_tools = OPEN in source and re.search(r"\btools\b", source) is not None
        self._facts = {"bos_token": tokenizer.begin or "", "eos_token": tokenizer.end or ""}
        self._places = _any_of(tokenizer.placed, "({})")
        # Zero-width, so that overlapping occurrences are all found; the dot takes the token's first character.
        self._inside = _any_of(tokenizer.placed, "(?={}).")
        self._inside_own = _any_of(tokenizer.control, "(?={}).")
        self._beginnings = tuple({token[:n] for token in tokenizer.placed for n in range(1, len(token))})
        try:
            self._template = _environment(now).from_string(source)
        except (TemplateError, RecursionError) as e:
            raise ModelUnavailable("the weights' chat template does not compile", detail=str(e)) from e

    def encode(self, messages: Any, most: int, tools: Any = None) -> list[int]:
        """The prompt's ids, ready for the answer to begin. `tools` as in a request.

        Raises InvalidRequest for messages or tools that this model cannot read, and ContextTooLong when the text is
        sure to have more than `most` tokens.
        """
        if tools and not self.takes_tools:
            raise InvalidRequest("this model's chat template has no tools", param="tools")
        plain = plain_messages(messages, self.takes_tools)
        offered = _tools(tools) if tools else None
        guard = _unused_character([plain, offered])
        text = self._render(plain, offered, guard)
        least = self._tokenizer.least_tokens(text)
        if least > most:
            said = f"the model's context is {most} tokens; the messages have at least {least}"
            raise ContextTooLong(said, param="messages")
        return self._ids(text, guard)

    def _ids(self, text: str, guard: str) -> list[int]:
        tokenizer, ids = self._tokenizer, list[int]()
        for piece in self._places.split(text):
            if piece in tokenizer.placed:
                ids.append(tokenizer.placed[piece])
            elif piece:
                ids.extend(tokenizer.encode(piece.replace(guard, "")))
        if tokenizer.starts_with_bos and tokenizer.bos is not None and ids[:1] != [tokenizer.bos]:
            ids.insert(0, tokenizer.bos)
        return ids

    def _render(self, messages: list[dict[str, Any]], tools: Any, guard: str) -> str:
        try:
            messages, tools = [self._guarded_message(m, guard) for m in messages], self._guarded(tools, guard)
            return self._template.render(messages=messages, add_generation_prompt=True, tools=tools, **self._facts)
        except TemplateError as e:
            raise InvalidRequest(f"the model's chat template refuses these messages: {e}", param="messages") from e
        except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, RecursionError) as e:
            raise InvalidRequest("the model's chat template cannot read these messages", param="messages") from e

    def _guarded_message(self, message: dict[str, Any], guard: str) -> dict[str, Any]:
        # What the model said before may have markers of its own, as <think>, which its template looks for.
        own = message["role"] == "assistant"
        return {**self._guarded(message, guard), "content": self._guarded(message["content"], guard, own)}

    def _guarded(self, value: Any, guard: str, own: bool = False) -> Any:
        """Every text in `value` with a guard inside each word that would become a token only the template may place."""
        if isinstance(value, str):
            return self._guarded_text(value, guard, own)
        if isinstance(value, list):
            return [self._guarded(v, guard) for v in value]
        if isinstance(value, dict):
            return {self._guarded(k, guard): self._guarded(v, guard) for k, v in value.items()}
        return value

    def _guarded_text(self, text: str, guard: str, own: bool) -> str:
        text = (self._inside_own if own else self._inside).sub(lambda m: m.group() + guard, text)
        if text.endswith(self._beginnings):
            text += guard  # a beginning that the template's next words could complete
        return text


def plain_messages(messages: Any, tools: bool = False) -> list[dict[str, Any]]:
    """Each message as a role, one text and, where the model has `tools`, its calls. Raises InvalidRequest naming the
    message, or the part, that is none."""
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be a list of at least one message", param="messages")
    return [_plain(message, f"messages[{i}]", tools) for i, message in enumerate(messages)]


def _plain(message: Any, where: str, tools: bool) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise InvalidRequest(f"'{where}.role' must be one of {', '.join(_ROLES)}", param=f"{where}.role")
    role, content, calls = _ROLES[message["role"]], message.get("content"), message.get("tool_calls")
    if content is None:
        content = message.get("refusal")  # a turn that OpenAI's models wrote, whose answer was none
    if not calls:
        return {"role": role, "content": _text(content, f"{where}.content")}
    if not tools:
        raise InvalidRequest("this model's chat template has no tool calls", param=f"{where}.tool_calls")
    text = "" if content is None else _text(content, f"{where}.content")
    return {"role": role, "content": text, "tool_calls": _calls(calls, f"{where}.tool_calls")}


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise InvalidRequest(f"'{where}' must be a list", param=where)
    return [{"type": "function", "function": _call(call, f"{where}[{i}]")} for i, call in enumerate(calls)]


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"'{where}' must be a function call with a name", param=where)
    arguments = function.get("arguments", "{}")
    if not isinstance(arguments, str):
        raise InvalidRequest(f"'{where}.function.arguments' must be a text", param=f"{where}.function.arguments")
    return {"name": function["name"], "arguments": _parsed(arguments)}


def _parsed(arguments: str) -> Any:
    """The object that the text stands for, as templates want it; a text that is no JSON is what the model once said."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _tools(tools: Any) -> list[dict[str, Any]]:
    if not isinstance(tools, list):
        raise InvalidRequest("'tools' must be a list", param="tools")
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"'tools[{i}]' must be a function with a name", param=f"tools[{i}]")
    return tools


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"'{where}' must be a text or a list of parts", param=where)
    return "".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "refusal"):
        raise InvalidRequest(f"'{where}' is of type '{kind}': this model reads only text", param=where)
    if not isinstance(part.get(kind), str):
        raise InvalidRequest(f"'{where}.{kind}' must be a text", param=f"{where}.{kind}")
    return str(part[kind])


def _any_of(tokens: Iterable[str], form: str) -> re.Pattern[str]:
    """Finds any of the tokens, the longest first; `form` has {} where they stand."""
    words = "|".join(sorted(map(re.escape, tokens), key=len, reverse=True))
    return re.compile(form.replace("{}", words) if words else "(?!)()", re.DOTALL)


def _unused_character(value: Any) -> str:
    """A private-use character that no text in `value` contains."""
    used = set[str]()
    waiting = [value]
    while waiting:
        v = waiting.pop()
        if isinstance(v, str):
            used.update(v)
        elif isinstance(v, dict):
            waiting += [*v.keys(), *v.values()]
        elif isinstance(v, list):
            waiting += v
    return next(chr(c) for c in range(0xF0000, 0x10FFFE) if chr(c) not in used)


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    environment.filters["tojson"] = _tojson
    return environment


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    # jinja's own filter escapes for HTML; a prompt must say what was meant.
    return json.dumps(value, ensure_ascii=False, indent=indent)
