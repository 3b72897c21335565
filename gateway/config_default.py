"""What holds where a configuration says nothing: a small model on the bundled engine, a large one if a key is at hand.

Plain data, as a file would have it, so that it is validated by the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SMALL_WEIGHTS = "smollm2-135m-instruct"
LARGE_MODEL = "gpt-4.1-mini"
LARGE_PRICE = {"input": "0.40", "cached_input": "0.10", "output": "1.60"}  # USD per million tokens, its list price

# Which variable a key of the default large model comes from.
VARIABLES: dict[str | int, str] = {
    "api_key": "OPENAI_API_KEY",
    "base_url": "OPENAI_BASE_URL",
    "model": "TRIMTAB_LARGE_MODEL",
}


def default_models(environ: Mapping[str, str]) -> dict[str, Any]:
    """`models` and `routes`. OPENAI_API_KEY adds `large`; OPENAI_BASE_URL and TRIMTAB_LARGE_MODEL say which."""
    models: dict[str, Any] = {"small": {"backend": "engine", "weights": SMALL_WEIGHTS}}
    route = {"small": "small"}
    if environ.get("OPENAI_API_KEY", "").strip():
        models["large"] = {
            "backend": "openai",
            "model": environ.get("TRIMTAB_LARGE_MODEL") or LARGE_MODEL,
            "api_key": "env:OPENAI_API_KEY",
        }
        if not environ.get("OPENAI_BASE_URL") and not environ.get("TRIMTAB_LARGE_MODEL"):
            models["large"]["price"] = dict(LARGE_PRICE)
        if environ.get("OPENAI_BASE_URL"):
            models["large"]["base_url"] = "env:OPENAI_BASE_URL"
        route["large"] = "large"
    return {"models": models, "routes": {"auto": route}}


def default_ledger(environ: Mapping[str, str]) -> Path:
    """Under the state folder of the XDG base directories, which a relative XDG_STATE_HOME does not change."""
    state = Path(environ.get("XDG_STATE_HOME") or "")
    home = Path(environ.get("HOME") or Path.home())
    return (state if state.is_absolute() else home / ".local" / "state") / "trimtab" / "ledger.db"
