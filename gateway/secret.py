"""Secrets in a configuration: `env:NAME`, `file:/path`, or the literal itself; always held as SecretStr.

Whatever goes wrong, the message names where the secret was looked for and never what it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo

LARGEST_FILE = 64 * 1024  # bytes; a secret is short, and a device file never ends


def environment(info: ValidationInfo) -> Mapping[str, str]:
    """The environment a configuration is read in: the one handed in as context, else the process's own."""
    context = info.context if isinstance(info.context, Mapping) else {}
    environ: Mapping[str, str] = context.get("environ", os.environ)
    return environ


def is_reference(text: str) -> bool:
    return text.startswith(("env:", "file:"))


def resolve(text: str, environ: Mapping[str, str]) -> str:
    """What `text` stands for. Raises ValueError when the variable or the file is missing, empty or unreadable."""
    if text.startswith("env:"):
        return _from_environment(text.removeprefix("env:"), environ)
    if text.startswith("file:"):
        return _from_file(text.removeprefix("file:"))
    if not text:
        raise ValueError("is empty")
    return text


def _from_environment(name: str, environ: Mapping[str, str]) -> str:
    value = environ.get(name, "").strip()
    if not value:
        state = "empty" if name in environ else "not set"
        raise ValueError(f"the environment variable {name} is {state}")
    return value


def _from_file(name: str) -> str:
    try:
        with Path(name).expanduser().open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        text = data.decode()
    except OSError as e:
        raise ValueError(f"cannot read the file {name}: {e.strerror}") from None
    except (RuntimeError, UnicodeDecodeError, ValueError):
        raise ValueError(f"the file {name} does not hold plain UTF-8 text, or its name makes no sense") from None
    if len(data) > LARGEST_FILE:
        raise ValueError(f"the file {name} is larger than a secret can be ({LARGEST_FILE} bytes)")
    if not text.strip():
        raise ValueError(f"the file {name} is empty")
    return text.strip()


def _read(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text: env:NAME, file:/path or the value itself")
    return SecretStr(resolve(value, environment(info)))


def _one_line(secret: SecretStr) -> SecretStr:
    # It travels in an HTTP header, where a line break would start another one.
    if not (secret.get_secret_value().isascii() and secret.get_secret_value().isprintable()):
        raise ValueError("holds characters that cannot stand in an HTTP header")
    return secret


Secret = Annotated[SecretStr, BeforeValidator(_read)]
HeaderSecret = Annotated[SecretStr, BeforeValidator(_read), AfterValidator(_one_line)]
