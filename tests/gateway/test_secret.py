"""Secrets are found where the file says, and never told."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from trimtab.gateway.secret import LARGEST_FILE, HeaderSecret, Secret, resolve


class Holder(BaseModel):
    plain: Secret | None = None
    header: HeaderSecret | None = None


def held(environ: dict[str, str] | None = None, **written: object) -> Holder:
    return Holder.model_validate(written, context={"environ": environ or {}})


def test_three_ways_to_write_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("from-a-file\n")
    assert resolve("env:KEY", {"KEY": " from-env "}) == "from-env"
    assert resolve(f"file:{path}", {}) == "from-a-file"
    assert resolve("itself", {}) == "itself"


def test_never_in_a_repr() -> None:
    holder = held(plain="s3cr3t", header="s3cr3t")
    assert "s3cr3t" not in repr(holder)
    assert isinstance(holder.plain, SecretStr)
    assert holder.plain.get_secret_value() == "s3cr3t"


def test_the_process_environment_where_none_is_handed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_TEST_SECRET", "x")
    holder = Holder.model_validate({"plain": "env:TRIMTAB_TEST_SECRET"})
    assert holder.plain == SecretStr("x")


@pytest.mark.parametrize(
    ("environ", "cause"),
    [
        ({}, "the environment variable KEY is not set"),
        ({"KEY": ""}, "the environment variable KEY is empty"),
        ({"KEY": "  "}, "KEY is empty"),
    ],
)
def test_a_missing_variable_is_named(environ: dict[str, str], cause: str) -> None:
    with pytest.raises(ValidationError, match=cause):
        held(environ, plain="env:KEY")


def test_files_that_hold_no_secret(tmp_path: Path) -> None:
    files = {"empty": b" \n", "binary": b"\xff\xfe", "huge": b"x" * (LARGEST_FILE + 1)}
    causes = {"empty": "is empty", "binary": "UTF-8", "huge": "larger than", "gone": "No such file"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name, cause in causes.items():
        with pytest.raises(ValueError, match=cause):
            resolve(f"file:{tmp_path / name}", {})
    with pytest.raises(ValueError, match="Is a directory"):
        resolve(f"file:{tmp_path}", {})


@pytest.mark.parametrize("value", ["two\nlines", "tab\there", "né", "\x00"])
def test_a_header_cannot_be_split_by_a_secret(value: str) -> None:
    with pytest.raises(ValidationError, match="HTTP header"):
        held({"KEY": value}, header="env:KEY")
    assert held({"KEY": value + "x"}, plain="env:KEY").plain is not None  # a PEM key in a parameter may have lines


@pytest.mark.parametrize("value", [1, True, ["x"], {"a": 1}])
def test_only_text(value: object) -> None:
    with pytest.raises(ValidationError, match="must be text"):
        held(plain=value)
