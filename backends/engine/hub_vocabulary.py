"""The tokenizer and chat template of a folder as model hubs have them: tokenizer.json and what stands beside it.

Knows nothing of tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...protocol.errors import ModelUnavailable
from .checkpoint import Vocabulary


def vocabulary_in(folder: Path, config: Mapping[str, Any], size: int) -> Vocabulary:
    """`size` is the number of the model's tokens; names are made up for those that the tokenizer has not.

    Raises ModelUnavailable when tokenizer.json is missing, damaged or no byte-level BPE.
    """
    file = folder / "tokenizer.json"
    whole = read_json(file)
    try:
        return _vocabulary(whole, _optional(folder / "tokenizer_config.json"), _ends(folder, config), size)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise ModelUnavailable("the weights' tokenizer is damaged: tokenizer.json", detail=f"{file}: {e!r}") from e


def template_in(folder: Path) -> str | None:
    """The chat template, from its own file or from tokenizer_config.json, where several may have names."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    template = _optional(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("tool_use") or named.get("default")
    return template if isinstance(template, str) else None


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file of JSON. Raises ModelUnavailable naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        why = getattr(e, "strerror", None) or str(e)
        raise ModelUnavailable(
            f"the weights cannot be read: {path.name} is missing or damaged", detail=f"{path}: {why}; fetch it again"
        ) from e
    if not isinstance(value, dict):
        raise ModelUnavailable(f"the weights cannot be read: {path.name} is no JSON object", detail=str(path))
    return value


def _vocabulary(whole: dict[str, Any], config: dict[str, Any], ends: frozenset[int], size: int) -> Vocabulary:
    model = whole["model"]
    if model.get("type", "BPE") != "BPE" or "ByteLevel" not in json.dumps(
        [whole.get("pre_tokenizer"), whole["decoder"]]
    ):
        raise ModelUnavailable(f"the weights' tokenizer is '{model.get('type')}'; the engine has byte-level BPE")
    ids: dict[str, int] = dict(model["vocab"])
    added = whole.get("added_tokens") or []
    ids |= {token["content"]: token["id"] for token in added}
    if ids and max(ids.values()) >= size:
        raise ModelUnavailable(f"the weights are damaged: the tokenizer has {max(ids.values()) + 1} tokens, not {size}")
    texts = [f"[unused {i}]" for i in range(size)]
    for text, i in ids.items():
        texts[i] = text
    begin = ids.get(_text(config.get("bos_token")))
    end = ids.get(_text(config.get("eos_token")))
    return Vocabulary(
        texts=texts,
        merges=[(a, b) for a, b in map(_pair, model["merges"])],
        split=json.dumps(whole["pre_tokenizer"]),
        control=frozenset(token["id"] for token in added if token.get("special")),
        markers=frozenset(token["id"] for token in added if not token.get("special")),
        ends=ends if end is None else ends | {end},
        begin=begin,
        end=end,
        add_begin=bool(config.get("add_bos_token", begin is not None and _text(config["bos_token"]) in _first(whole))),
        whole_words=bool(model.get("ignore_merges", False)),
    )


def _pair(merge: Any) -> tuple[str, str]:
    a, b = merge.split(" ", 1) if isinstance(merge, str) else merge
    return a, b


def _text(token: Any) -> str:
    """A token's text, whether it stands alone or in an object."""
    text = token.get("content", "") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _first(whole: dict[str, Any]) -> set[str]:
    """The tokens that the post-processor puts before every text."""
    return {
        step[0]["SpecialToken"]["id"] for step in _templates(whole.get("post_processor")) if "SpecialToken" in step[0]
    }


def _templates(processor: Any) -> Iterator[list[dict[str, Any]]]:
    if not isinstance(processor, dict):
        return
    if processor.get("type") == "TemplateProcessing" and processor["single"]:
        yield processor["single"]
    for inner in processor.get("processors", []):
        yield from _templates(inner)


def _ends(folder: Path, config: Mapping[str, Any]) -> frozenset[int]:
    named: list[Any] = []
    for facts in (config, _optional(folder / "generation_config.json")):
        ends = facts.get("eos_token_id")
        named += ends if isinstance(ends, list) else [ends]
    return frozenset(i for i in named if isinstance(i, int) and not isinstance(i, bool))


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
