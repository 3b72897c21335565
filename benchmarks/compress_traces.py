"""Agent sessions from BFCL's multi-turn sets: real tools, real users' turns, and what the real simulators answered.

Each session is a list of requests as an agent loop sends them: one for every call and one for the closing sentence of a
turn, each with the whole conversation so far. The calls are the data set's ground truth, run against the simulators in
the `bfcl-eval` package (Apache-2.0), which is given as a folder and never installed here.
"""

from __future__ import annotations

import ast
import copy
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SETS = ("base", "miss_func", "miss_param", "long_context")
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


@dataclass(frozen=True)
class Step:
    """One request of a session: the messages it carries and the message that answers it."""

    messages: list[dict[str, Any]]
    answer: dict[str, Any]


@dataclass(frozen=True)
class Trace:
    name: str
    tools: list[dict[str, Any]]
    steps: list[Step]


class Sessions:
    """The traces under `package`, the folder that holds `bfcl_eval`."""

    def __init__(self, package: Path) -> None:
        self._data = package / "bfcl_eval" / "data"
        if not self._data.is_dir():
            raise SystemExit(f"{package} holds no bfcl_eval/data: pip install --no-deps --target {package} bfcl-eval")
        sys.path.insert(0, str(package))
        self._backend = importlib.import_module("bfcl_eval.constants.executable_backend_config")

    def traces(self, name: str) -> Iterator[Trace]:
        """Every session of one set, in the file's order."""
        entries = _lines(self._data / f"BFCL_v4_multi_turn_{name}.json")
        gold = {row["id"]: row["ground_truth"] for row in _lines(self._possible(name))}
        for entry in entries:
            yield self._trace(entry, gold[entry["id"]], long_context=name == "long_context")

    def _possible(self, name: str) -> Path:
        return self._data / "possible_answer" / f"BFCL_v4_multi_turn_{name}.json"

    def _trace(self, entry: dict[str, Any], gold: list[list[str]], long_context: bool) -> Trace:
        classes = {name: self._instance(name, entry, long_context) for name in entry["involved_classes"]}
        tools = [tool for name in classes for tool in self._tools(name, entry.get("excluded_function", []))]
        messages: list[dict[str, Any]] = []
        steps: list[Step] = []
        for turn, calls in zip(entry["question"], gold, strict=False):
            # A turn without a user's text stands for a tool that is handed in later; the agent loop sees no message.
            messages += [{"role": m["role"], "content": m["content"]} for m in turn]
            for call in calls:
                asked, result = _run(call, classes, f"call_{len(steps)}")
                steps.append(Step(list(messages), asked))
                messages += [asked, result]
            closing = {"role": "assistant", "content": "Done. Is there anything else I can do for you?"}
            steps.append(Step(list(messages), closing))
            messages.append(closing)
        return Trace(entry["id"], tools, steps)

    def _instance(self, name: str, entry: dict[str, Any], long_context: bool) -> Any:
        made = getattr(importlib.import_module(self._backend.CLASS_FILE_PATH_MAPPING[name]), name)()
        if name not in self._backend.STATELESS_CLASSES:
            made._load_scenario(copy.deepcopy(entry["initial_config"].get(name, {})), long_context=long_context)
        return made

    def _tools(self, name: str, excluded: list[str]) -> list[dict[str, Any]]:
        file = self._data / "multi_turn_func_doc" / self._backend.MULTI_TURN_FUNC_DOC_FILE_MAPPING[name]
        return [_tool(row) for row in _lines(file) if row["name"] not in excluded]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _tool(row: dict[str, Any]) -> dict[str, Any]:
    function = {key: row[key] for key in ("name", "description", "parameters")}
    return {"type": "function", "function": _schema(function)}


def _schema(value: Any) -> Any:
    """BFCL's type names as JSON Schema's."""
    if isinstance(value, dict):
        return {
            key: _TYPES.get(inner, inner) if key == "type" and isinstance(inner, str) else _schema(inner)
            for key, inner in value.items()
        }
    return [_schema(inner) for inner in value] if isinstance(value, list) else value


def _run(call: str, classes: dict[str, Any], call_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """One call such as "cd(folder='x')": the assistant's message that makes it, and the tool's that answers it."""
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    name = ast.unparse(node.func).split(".")[-1]
    method = next(getattr(made, name) for made in classes.values() if hasattr(made, name))
    values = [ast.literal_eval(argument) for argument in node.args]
    named = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in node.keywords}
    try:
        result = method(*values, **named)
    except Exception as e:  # as the data set's own runner has it: an error is an answer too
        result = f"Error during execution: {e!s}"
    names = method.__code__.co_varnames[1:]
    arguments = json.dumps({**dict(zip(names, values, strict=False)), **named})
    function = {"name": name, "arguments": arguments}
    asked = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }
    said = result if isinstance(result, str) else json.dumps(result, default=str)
    return asked, {"role": "tool", "tool_call_id": call_id, "content": said}
