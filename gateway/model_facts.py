"""What a model can do at all: from its section of the configuration, else from the table that litellm ships, if that is
installed. Reads the table as a file, once: litellm itself is not imported.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from pathlib import Path
from typing import NamedTuple

import msgspec

from .model_config import EngineModel, FakeModel, ModelBase

log = logging.getLogger("trimtab.gateway")

_TABLE = "model_prices_and_context_window_backup.json"
# The bundled engine's grammars keep any schema; its weights see no pictures, and whether a chat template takes tools is
# known only when it is read.
_ENGINE = frozenset({"json", "schema"})


class ModelFacts(NamedTuple):
    """`context`: prompt and answer together, in tokens; `supports`: see model_config.Ability. None: nobody knows."""

    context: int | None = None
    longest_answer: int | None = None
    supports: frozenset[str] | None = None


class _Row(msgspec.Struct):
    max_input_tokens: int | float | str | None = None
    max_output_tokens: int | float | str | None = None
    mode: str | None = None
    supports_function_calling: bool | None = None
    supports_vision: bool | None = None
    supports_audio_input: bool | None = None
    supports_response_schema: bool | None = None


def model_facts(model: ModelBase, upstream: str) -> ModelFacts:
    """What the configuration says outweighs the table, fact by fact."""
    supports: frozenset[str] | None = model.supports
    if isinstance(model, EngineModel):
        supports = _ENGINE if supports is None else supports
    if isinstance(model, EngineModel | FakeModel) or None not in (model.context_tokens, supports):
        return ModelFacts(model.context_tokens, model.max_output_tokens, supports)
    known = _known(upstream)
    return ModelFacts(
        model.context_tokens or known.context,
        model.max_output_tokens or known.longest_answer,
        known.supports if supports is None else supports,
    )


def _known(upstream: str) -> ModelFacts:
    table = _table(_folder())
    row = table.get(upstream) or table.get(upstream.rpartition("/")[2])
    if row is None or row.mode not in ("chat", "completion", "responses"):
        return ModelFacts()
    said = {
        "tools": row.supports_function_calling,
        "vision": row.supports_vision,
        "audio": row.supports_audio_input,
        "schema": row.supports_response_schema,
    }
    # Modes of JSON are older than the column for schemas: who calls functions has them.
    found = {name for name, has in said.items() if has} | ({"json"} if said["tools"] or said["schema"] else set())
    return ModelFacts(_whole(row.max_input_tokens), _whole(row.max_output_tokens), frozenset(found))


def _whole(value: int | float | str | None) -> int | None:
    return int(value) if isinstance(value, int | float) and value >= 1 else None


def _folder() -> str | None:
    spec = importlib.util.find_spec("litellm")
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent)


@functools.cache
def _table(folder: str | None) -> dict[str, _Row]:
    if folder is None:
        return {}
    try:
        return msgspec.json.decode(Path(folder, _TABLE).read_bytes(), type=dict[str, _Row])
    except (OSError, msgspec.DecodeError) as e:
        log.warning("litellm's table of models cannot be read (%s); give context_tokens and supports", type(e).__name__)
        return {}
