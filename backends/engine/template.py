"""A chat as the token ids its model expects, by the chat template inside the weights (jinja2, sandboxed).

The template is a program of the weights' author and the messages are the user's: neither is trusted. A control token is
made only where the template itself writes one; the same words inside a message stay plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ...protocol.errors import ContextTooLong, InvalidRequest, ModelUnavailable
from .tokenizer import Tokenizer

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


class ChatTemplate:
    """Turns messages into ids. `now` is the clock that a template's date comes from."""

    def __init__(self, metadata: Mapping[str, Any], tokenizer: Tokenizer, now: Callable[[], datetime]) -> None:
        """Raises ModelUnavailable when the template does not compile."""
        source = metadata.get("tokenizer.chat_template") or _CHATML
        self._tokenizer = tokenizer
        self.takes_tools = bool(re.search(r"\btools\b", source))
        self._facts = {name: _special(metadata, name) for name in ("bos", "eos")}
        tokens = sorted(map(re.escape, tokenizer.control), key=len, reverse=True)
        self._controls = re.compile("(" + "|".join(tokens) + ")") if tokens else re.compile("(?!)()")
        # Zero-width, so that overlapping occurrences are all found; the dot takes the token's first character.
        self._inside = re.compile("(?=" + "|".join(tokens) + ").", re.DOTALL) if tokens else re.compile("(?!)")
        try:
            self._template = _environment(now).from_string(source)
        except TemplateError as e:
            raise ModelUnavailable("the weights' chat template does not compile", detail=str(e)) from e

    def encode(self, messages: Any, most: int) -> list[int]:
        """The prompt's ids, ready for the answer to begin.

        Raises InvalidRequest for messages that are not a chat this model can read, and ContextTooLong when the text is
        sure to have more than `most` tokens.
        """
        plain = plain_messages(messages)
        guard = _unused_character(plain)
        text = self._render([self._guarded(m, guard) for m in plain])
        least = self._tokenizer.least_tokens(text)
        if least > most:
            raise ContextTooLong(f"the model's context is {most} tokens; the messages have at least {least}")
        ids: list[int] = []
        for piece in self._controls.split(text):
            if piece in self._tokenizer.control:
                ids.append(self._tokenizer.control[piece])
            elif piece:
                ids.extend(self._tokenizer.encode(piece.replace(guard, "")))
        bos = self._tokenizer.bos
        if self._tokenizer.starts_with_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=True,
                tools=None,
                bos_token=self._facts["bos"],
                eos_token=self._facts["eos"],
            )
        except TemplateError as e:
            raise InvalidRequest(f"the model's chat template refuses these messages: {e}", param="messages") from e
        except (TypeError, ValueError, KeyError, IndexError, ArithmeticError) as e:
            raise InvalidRequest("the model's chat template cannot read these messages", param="messages") from e

    def _guarded(self, message: dict[str, str], guard: str) -> dict[str, str]:
        content = self._inside.sub(lambda m: m.group() + guard, message["content"])
        if any(content.endswith(token[:n]) for token in self._tokenizer.control for n in range(1, len(token))):
            content += guard  # a beginning that the template's next words could complete
        return {"role": message["role"], "content": content}


def plain_messages(messages: Any) -> list[dict[str, str]]:
    """Each message as a role and one text. Raises InvalidRequest naming the message, or the part, that is none."""
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be a list of at least one message", param="messages")
    plain = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise InvalidRequest(f"'{where}.role' must be one of {', '.join(_ROLES)}", param=f"{where}.role")
        if message.get("tool_calls"):
            raise InvalidRequest("this model's chat template has no tool calls", param=f"{where}.tool_calls")
        plain.append({"role": _ROLES[message["role"]], "content": _text(message.get("content"), f"{where}.content")})
    return plain


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"'{where}' must be a text or a list of parts", param=where)
    return "".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise InvalidRequest(f"'{where}' is of type '{kind}': this model reads only text", param=where)
    if not isinstance(part.get("text"), str):
        raise InvalidRequest(f"'{where}.text' must be a text", param=f"{where}.text")
    return str(part["text"])


def _unused_character(messages: Sequence[Mapping[str, str]]) -> str:
    """A private-use character that no message contains."""
    used = set().union(*(m["content"] for m in messages))
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


def _special(metadata: Mapping[str, Any], name: str) -> str:
    number, tokens = metadata.get(f"tokenizer.ggml.{name}_token_id"), metadata.get("tokenizer.ggml.tokens", [])
    return tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else ""
