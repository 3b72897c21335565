"""What a client asks of the engine, checked: OpenAI's fields as typed values.

A field of a wrong type or out of range is an InvalidRequest naming it, and so is one that other engines sample by and
this one does not: the answer would be another than was asked for. Any other unknown field is ignored.
Pure; knows nothing of tokens' meaning or of the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...protocol.errors import InvalidRequest
from ...protocol.messages import Request
from .grammar_request import Form, read_form

_MOST_CHOICES = 32
_MOST_STOPS = 16
_USUAL_LENGTH = 16  # tokens of a legacy completion whose client does not say, as OpenAI has it
_MOST_DIGITS = 10  # of a token's id: Python takes no number of thousands of them
# What other engines are told of sampling and this one is not, each with the values that ask for nothing.
_FOREIGN: Mapping[str, tuple[object, ...]] = {
    "dynatemp_range": (0,),
    "ignore_eos": (False,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "mirostat": (0,),
    "no_repeat_ngram_size": (0,),
    "repeat_penalty": (1,),
    "repetition_penalty": (1,),
    "tfs_z": (1,),
    "top_a": (0,),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "xtc_probability": (0,),
}
_OURS = "temperature, top_p, top_k, min_p, frequency_penalty, presence_penalty, logit_bias, seed"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one answer is sampled. `logprobs` None: none are asked for; n: also the n likeliest alternatives."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    seed: int = 0


_NEUTRAL = Sampling()


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token; with logprobs asked for, its own and the likeliest ones', by the model's unprocessed logits."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """The checked parameters of one request. `most` None: as many tokens as the context holds; `form`: what the answer
    must be, if anything; `tools`: it may be calls of functions."""

    sampling: Sampling
    seed: int | None
    n: int
    most: int | None
    stops: tuple[str, ...]
    form: Form | None = None
    echo: bool = False
    tools: bool = False

    def seed_of(self, choice: int, entropy: int) -> int:
        """The key of a choice's noise: the client's seed, else `entropy`; another one for each choice."""
        base = entropy if self.seed is None else self.seed
        return int.from_bytes(hashlib.blake2b(f"{base}/{choice}".encode(), digest_size=8).digest(), "little")


def read_chat(request: Request, vocabulary: int, usual: Sampling = _NEUTRAL) -> Ask:
    """Raises InvalidRequest; `usual` is how to sample where it is not said."""
    asked = request.get("logprobs")
    if asked is not None and not isinstance(asked, bool):
        raise InvalidRequest("'logprobs' must be true or false", param="logprobs")
    top = _integer(request, "top_logprobs", 0, 20)
    if top is not None and not asked:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true", param="top_logprobs")
    ask = _ask(request, (top or 0) if asked else None, vocabulary, usual)
    return replace(ask, form=read_form(request), tools=bool(tools_of(request)))


def tools_of(request: Request) -> list[Any] | None:
    """The functions that may be called, as `tools`; None where none may. Raises InvalidRequest."""
    tools, functions = request.get("tools"), request.get("functions")
    choice = request.get("tool_choice") if tools else request.get("function_call")
    for name, listed in (("tools", tools), ("functions", functions)):
        if listed is not None and not isinstance(listed, list):
            raise InvalidRequest(f"'{name}' must be a list", param=name)
    if choice == "none":
        return None
    return tools or [{"type": "function", "function": function} for function in functions or ()] or None


def read_completion(request: Request, vocabulary: int) -> Ask:
    """Raises InvalidRequest."""
    if request.get("suffix"):
        raise InvalidRequest("this model cannot fill in before a 'suffix'", param="suffix")
    best_of = _integer(request, "best_of", 1, _MOST_CHOICES)
    if best_of is not None and best_of != (request.get("n") or 1):
        raise InvalidRequest("'best_of' other than 'n' is not supported by this model", param="best_of")
    echo = request.get("echo")
    if echo is not None and not isinstance(echo, bool):
        raise InvalidRequest("'echo' must be true or false", param="echo")
    ask = _ask(request, _integer(request, "logprobs", 0, 20), vocabulary)
    most = _USUAL_LENGTH if ask.most is None else ask.most
    return replace(ask, form=read_form(request), echo=bool(echo), most=most)


def read_prompts(request: Request, vocabulary: int) -> list[str] | list[list[int]]:
    """The prompts of a legacy completion: a text, texts, token ids, or lists of them. Raises InvalidRequest."""
    prompt = request.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(p, str) for p in prompt):
            return prompt
        if all(_is_token(p, vocabulary) for p in prompt):
            return [prompt]
        if all(isinstance(p, list) and p and all(_is_token(t, vocabulary) for t in p) for p in prompt):
            return prompt
    raise InvalidRequest(
        f"'prompt' must be a text, a list of texts, or token ids from 0 to {vocabulary - 1}", param="prompt"
    )


def _ask(request: Request, logprobs: int | None, vocabulary: int, usual: Sampling = _NEUTRAL) -> Ask:
    if request.n > _MOST_CHOICES:
        raise InvalidRequest(f"'n' may be at most {_MOST_CHOICES} with this model", param="n")
    for name, neutral in _FOREIGN.items():
        value = request.get(name)
        if value is not None and value not in neutral:
            raise InvalidRequest(f"'{name}' is not supported by this model, which samples by {_OURS}", param=name)
    temperature = _number(request, "temperature", 0, 2)
    top_p = _number(request, "top_p", 0, 1)
    return Ask(
        sampling=Sampling(
            temperature=usual.temperature if temperature is None else temperature,
            top_p=usual.top_p if top_p is None else top_p,
            top_k=max(0, _integer(request, "top_k", -1, 1 << 30) or 0),
            min_p=_number(request, "min_p", 0, 1) or 0.0,
            frequency_penalty=_number(request, "frequency_penalty", -2, 2) or 0.0,
            presence_penalty=_number(request, "presence_penalty", -2, 2) or 0.0,
            logit_bias=_bias(request, vocabulary),
            logprobs=logprobs,
        ),
        seed=_integer(request, "seed", -(1 << 63), (1 << 64) - 1),
        n=request.n,
        most=request.max_output,
        stops=_stops(request),
    )


def _stops(request: Request) -> tuple[str, ...]:
    stop = request.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > _MOST_STOPS or not all(isinstance(s, str) for s in stops):
        raise InvalidRequest(f"'stop' must be a text or at most {_MOST_STOPS} texts", param="stop")
    return tuple(s for s in stops if s)


def _bias(request: Request, vocabulary: int) -> dict[int, float]:
    bias = request.get("logit_bias")
    if bias is None:
        return {}
    if not isinstance(bias, dict):
        raise InvalidRequest("'logit_bias' must be an object of token ids", param="logit_bias")
    out = {}
    for key, value in bias.items():
        if not (len(key) <= _MOST_DIGITS and key.isascii() and key.isdigit() and int(key) < vocabulary):
            raise InvalidRequest(
                f"'logit_bias' names {key[:40]!r}, which is no token of this model", param="logit_bias"
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -100 <= value <= 100:
            raise InvalidRequest("'logit_bias' values must be numbers from -100 to 100", param="logit_bias")
        out[int(key)] = float(value)
    return out


def _number(request: Request, name: str, least: float, most: float) -> float | None:
    value = request.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise InvalidRequest(f"'{name}' must be a number from {least:g} to {most:g}", param=name)
    return float(value)


def _integer(request: Request, name: str, least: int, most: int) -> int | None:
    value = request.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidRequest(f"'{name}' must be a whole number from {least} to {most}", param=name)
    return value


def _is_token(value: Any, vocabulary: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocabulary
