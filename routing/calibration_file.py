"""A calibration's file as it lies on the disk: read and checked as far as that takes no arrays, so that a configuration
that names a wrong one is refused at once and in words. heads.py makes a calibration of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .features import NAMES

FORMAT = 1
LARGEST = 64 << 20
_PARTS = ("name", "about", "embedder", "feature_mean", "feature_spread", "topics", "landmarks", "domains", "heads")


def read(path: Path) -> tuple[dict[str, Any], str]:
    """What it holds, and its digest. Raises ValueError, which says what is wrong and nothing of what it holds."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("is larger than any calibration")
        data = path.read_bytes()
        held = json.loads(data)
    except OSError as e:
        raise ValueError(f"cannot be read: {e.strerror or type(e).__name__}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("is no JSON, so it is no calibration; `trimtab route fit` writes one") from None
    if not isinstance(held, dict) or "heads" not in held:
        raise ValueError("is no calibration; `trimtab route fit` writes one")
    if held.get("format") != FORMAT:
        raise ValueError("is a calibration of another version; fit it again with `trimtab route fit`")
    if held.get("features") != list(NAMES):
        raise ValueError("was fitted on other features of prompts; fit it again with `trimtab route fit`")
    missing = [part for part in _PARTS if part not in held]
    if missing or not isinstance(held["heads"], dict):
        raise ValueError(f"is a calibration without {', '.join(missing) or 'heads'}")
    return held, hashlib.sha256(data).hexdigest()[:16]
