"""A request as the engine's tasks: its parameters checked, its prompts rendered and encoded, its form compiled.

Takes milliseconds for a long conversation and up to a second for a large schema: not for the event loop. Knows nothing
of threads or of how tasks are computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...protocol.errors import ContextTooLong, InvalidRequest
from ..base import Call
from .draft_given import read_prediction
from .request import Ask, Sampling, read_chat, read_completion, read_prompts, tools_of
from .sequence import Task
from .unfinished import unfinished

if TYPE_CHECKING:
    from .loaded import Loaded

_MOST_ANSWERS = 128


def read_tasks(call: Call, loaded: Loaded, usual: Sampling, entropy: int) -> tuple[Ask, list[Task]]:
    """One task for each prompt; `usual` is how to sample where a chat does not say. Raises InvalidRequest, or
    ContextTooLong before anything of the engine's memory is taken."""
    tokenizer, request = loaded.tokenizer, call.request
    predicted = read_prediction(request)
    if call.kind == "chat":
        ask = read_chat(request, tokenizer.size, usual)
        prompts = [_chat(call, loaded)]
    else:
        ask = read_completion(request, tokenizer.size)
        texts = read_prompts(request, tokenizer.size)
        prompts = [_ids(p, loaded) if isinstance(p, str) else p for p in texts]
    if len(prompts) * ask.n > _MOST_ANSWERS:
        raise InvalidRequest(f"at most {_MOST_ANSWERS} answers can be asked for in one request", param="prompt")
    for prompt in prompts:
        _check_length(len(prompt), ask, loaded.context, "messages" if call.kind == "chat" else "prompt")
    form = None if ask.form is None else loaded.grammars.compile(ask.form)
    given = tuple(tokenizer.encode(text) for text in (predicted, call.draft) if text)
    return ask, [Task(p, ask, i * ask.n, entropy, call.expected, given, form) for i, p in enumerate(prompts)]


def _chat(call: Call, loaded: Loaded) -> list[int]:
    messages, said = unfinished(call.request)
    ids = loaded.template.encode(messages, loaded.context, tools_of(call.request))
    return ids + loaded.tokenizer.encode(said) if said else ids


def _ids(prompt: str, loaded: Loaded) -> list[int]:
    tokenizer = loaded.tokenizer
    least = tokenizer.least_tokens(prompt)
    if least >= loaded.context:
        said = f"the model's context is {loaded.context} tokens; the prompt has at least {least}"
        raise ContextTooLong(said, param="prompt")
    ids = tokenizer.encode(prompt)
    start = [tokenizer.bos] if tokenizer.bos is not None and (tokenizer.starts_with_bos or not ids) else []
    if not ids and not start:
        raise InvalidRequest("'prompt' is empty", param="prompt")
    return start + ids


def _check_length(length: int, ask: Ask, context: int, param: str) -> None:
    room = 0 if ask.most == 0 else 1
    if length + room > context:
        raise ContextTooLong(
            f"the model's context is {context} tokens; the prompt alone has {length}, which leaves none for an answer",
            param=param,
        )
