"""The contexts of the pruning benchmark are what they are said to be, and its figures are counted right."""

from __future__ import annotations

import importlib
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
TOWNS = ("Arden", "Brill", "Corwen", "Dunster", "Elham", "Frome", "Goring", "Hythe", "Ilam", "Joppa", "Keld", "Leek")
THINGS = ("bridge", "mill", "market")


def module(name: str) -> Any:
    return importlib.import_module(name)


class Hashed:
    """An encoder of hashed words."""

    dimensions = 64
    most_texts = 8

    def prepare(self, texts: Sequence[str]) -> list[Any]:
        return [module("trimtab.backends.embed").Prepared(text.lower().split(), len(text)) for text in texts]

    def encode(self, batch: Sequence[Any]) -> np.ndarray:
        rows = np.full((len(batch), self.dimensions), 1e-3)
        for row, prepared in zip(rows, batch, strict=True):
            for word in prepared.form:
                row[zlib.crc32(word.strip(".?,").encode()) % self.dimensions] += 1
        return rows


def rows() -> list[dict[str, Any]]:
    made = []
    for number, town in enumerate(TOWNS):
        for place, thing in enumerate(THINGS):
            year = 1400 + 31 * number + 7 * place
            about = f"{town} lies by a river. The {thing} of {town} was opened in {year}. Many people like to go there."
            row = {"question": f"When was the {thing} of {town} opened?", "answers": [str(year)], "title": town}
            made.append({**row, "passage": about})
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "nq_towns.dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


def test_contexts_hold_the_answer_once(data: Path) -> None:
    made = module("context_sets").contexts(data)
    assert len(made) == len(rows())
    for context in made:
        assert len(context.passages) == len(set(context.passages)) == 20
        holding = [at for at, passage in enumerate(context.passages) if context.answers[0] in passage]
        assert holding == [context.gold]
        (evidence,) = context.evidence
        assert context.units[evidence[0]].text.endswith(f"{context.answers[0]}.")
        assert context.units[context.sentence].document == context.gold
    assert len({context.gold for context in made}) > 5  # not always in one place


def test_contexts_depend_on_the_texts_alone(data: Path) -> None:
    sets = module("context_sets")
    assert sets.contexts(data) == sets.contexts(data)


def test_a_row_without_its_answer_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    odd = {**rows()[0], "answers": ["never said"]}
    path.write_text("".join(json.dumps(row) + "\n" for row in [odd, *rows()[1:]]))
    assert len(module("context_sets").contexts(path)) == len(rows()) - 1


def test_an_answer_across_two_units_needs_both(tmp_path: Path) -> None:
    path = tmp_path / "across.jsonl"
    across = {**rows()[0], "answers": ["by a river. The bridge"]}
    path.write_text("".join(json.dumps(row) + "\n" for row in [across, *rows()[1:]]))
    context = module("context_sets").contexts(path)[0]
    ((first, second),) = context.evidence
    flags = [False] * len(context.units)
    flags[first] = True
    assert not context.survives(flags)
    flags[second] = True
    assert context.survives(flags)


def test_the_parts_of_a_file_share_no_passage(data: Path) -> None:
    made = module("context_sets").contexts(data)
    passages: dict[str, set[int]] = {}
    for context in made:
        passages.setdefault(context.passages[context.gold], set()).add(context.fold)
    assert all(len(folds) == 1 for folds in passages.values())
    assert len({context.fold for context in made}) > 2


@pytest.fixture
def measured(data: Path) -> list[Any]:
    vectors = module("context_vectors").Vectors(Hashed())
    return [module("context_fit").measure(context, vectors) for context in module("context_sets").contexts(data)]


def test_fitting_finds_the_evidence_and_says_the_same_twice(measured: list[Any]) -> None:
    fit, conformal = module("context_fit"), module("trimtab.compression.conformal")
    found = fit.calibration([measured])
    assert found == fit.calibration([measured])
    best = [fit.scores(one.rows, one.names, found.weights).argmax() for one in measured]
    assert np.mean([one.context.evidence[0][0] == at for one, at in zip(measured, best, strict=True)]) > 0.9
    assert conformal.Calibration.read(json.loads(json.dumps(fit.fit([measured])))) == found


def test_scores_from_measurements_are_those_of_the_package(measured: list[Any], data: Path) -> None:
    fit, evidence = module("context_fit"), module("trimtab.compression.evidence")
    weights = module("trimtab.compression.conformal").shipped().weights
    vectors = module("context_vectors").Vectors(Hashed())
    for one in measured[:5]:
        question, units = one.context.question, one.context.units
        found = evidence.scores(question, units, vectors.query(question), vectors.units(units))
        assert fit.scores(one.rows, one.names, weights) == pytest.approx(found)


@pytest.mark.parametrize("train", [False, True])
def test_the_report_has_every_row(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: bool) -> None:
    context, out = module("context"), tmp_path / "context.json"
    monkeypatch.setattr(context, "Vectors", lambda: module("context_vectors").Vectors(Hashed()))
    more = ["--train", str(data)] if train else []
    monkeypatch.setattr(sys, "argv", ["context.py", "--data", str(data), "--json", str(out), *more])
    assert context.main() == 0
    found = {(row["metric"], row["system"]): row for row in json.loads(out.read_text())["rows"]}
    names = ("survive_5", "survive_10", "survive_20", "survive_30", "gold_10", "recall_error", "warm_p99_ms")
    for metric in (*names, "cold_p99_ms", "tokens_at_95", "tokens_at_99", "abstained_unanswerable"):
        assert (metric, "trimtab") in found
    assert {system for metric, system in found if metric == "survive_10"} == {"trimtab", "hybrid", "bm25", "random"}
    assert found["survive_10", "trimtab"]["bar"] == 0.985
    assert found["survive_10", "trimtab"]["value"] > found["survive_10", "random"]["value"]
    for share in (5, 10, 20, 30):
        for system in ("trimtab", "bm25", "random"):
            assert found[f"kept_{share}", system]["value"] <= share / 100
