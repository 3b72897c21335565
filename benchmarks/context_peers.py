"""Other libraries on the same contexts: run by context.py with the Python that they are installed in.

    PYTHON benchmarks/context_peers.py < contexts.jsonl > kept.jsonl

A line in is {"question", "text", "shares"}; a line out is {"headroom": [text, ...], "kompact": [text, ...]}, one text a
share of the tokens asked to be kept, for each library that is installed. Imports nothing of trimtab.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

Shorten = Callable[[str, str, float], str]


def headroom() -> Shorten:
    module = importlib.import_module("headroom.transforms.text_crusher")
    crusher = module.TextCrusher()

    def shorten(question: str, text: str, share: float) -> str:
        return str(crusher.compress(text, question, share).compressed)

    return shorten


def kompact() -> Shorten:
    types = importlib.import_module("kompact.types")
    settings = importlib.import_module("kompact.config").ContentCompressorConfig
    transform = importlib.import_module("kompact.transforms.content_compressor").transform

    def message(role: Any, kind: Any, text: str) -> Any:
        return types.Message(role=role, content=[types.ContentBlock(type=kind, text=text)])

    def shorten(question: str, text: str, share: float) -> str:
        messages = [
            message(types.Role.TOOL, types.ContentType.TOOL_RESULT, text),
            message(types.Role.USER, types.ContentType.TEXT, question),
        ]
        return str(transform(messages, settings(target_ratio=share)).messages[0].text)

    return shorten


def installed() -> dict[str, Shorten]:
    found: dict[str, Shorten] = {}
    for name, make in (("headroom", headroom), ("kompact", kompact)):
        try:
            found[name] = make()
        except ImportError as error:
            print(f"{name} is not there: {error}", file=sys.stderr)
    return found


def main() -> int:
    peers = installed()
    for line in sys.stdin:
        given = json.loads(line)
        kept = {
            name: [shorten(given["question"], given["text"], share) for share in given["shares"]]
            for name, shorten in peers.items()
        }
        print(json.dumps(kept), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
