"""An answer that is taken up where it ended: the conversation's last turn is the model's own, and not finished.

Asked for as vLLM and SGLang are: `continue_final_message`. The turn's text follows the words with which the template
opens an answer, as the model wrote it, so the next token is the one that would have come.
"""

from __future__ import annotations

from typing import Any

from ...protocol.errors import InvalidRequest
from ...protocol.messages import Request


def unfinished(request: Request) -> tuple[Any, str]:
    """The messages to render, and what the answer has said already ("" where it begins). Raises InvalidRequest."""
    messages = request.get("messages")
    if request.get("continue_final_message") is not True:
        return messages, ""
    last = messages[-1] if isinstance(messages, list) and messages else None
    said = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else None
    if not isinstance(said, str) or (isinstance(last, dict) and last.get("tool_calls")):
        raise InvalidRequest(
            "'continue_final_message' needs a last message of the assistant that is one text", param="messages"
        )
    return messages[:-1], said
