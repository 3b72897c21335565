"""The cache's benchmark counts what it says: metrics, streams, rivals, and that its parts share nothing."""

from __future__ import annotations

import gzip
import importlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def module(name: str) -> Any:
    return importlib.import_module(name)


def pairs(rows: list[tuple[str, str, bool]], tmp_path: Path) -> Any:
    path = tmp_path / "pairs.jsonl.gz"
    lines = [json.dumps({"a": a, "b": b, "same": same}) for a, b, same in rows]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return module("cache_sets").read([path])


ROWS = [("a1", "a2", True), ("a2", "a3", True), ("a3", "b1", False), ("b1", "b2", True), ("c1", "c2", False)]


def test_meanings_follow_chains_of_labels(tmp_path: Path) -> None:
    data = pairs(ROWS, tmp_path)
    meaning = dict(zip(data.questions, data.meanings, strict=True))
    assert meaning["a1"] == meaning["a3"] != meaning["b1"] == meaning["b2"]
    assert meaning["c1"] != meaning["c2"]
    group = dict(zip(data.questions, data.groups, strict=True))
    assert group["a1"] == group["b2"] != group["c1"] == group["c2"]
    assert data.ceiling == pytest.approx(3 / 7)


def test_other_files_are_left_out(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "x"}\n')
    assert module("cache_sets").read([other]).pairs == []


def test_parts_share_no_question_and_lose_none(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [(f"q{rng.randrange(400)}", f"q{rng.randrange(400)}x", rng.random() < 0.4) for _ in range(200)]
    data = pairs(rows, tmp_path)
    parts = [data.part(0, 0.3), data.part(0.3, 0.8), data.part(0.8, 1.01)]
    asked = [set(part.questions) for part in parts]
    assert sum(map(len, asked)) == len(data.questions) == len(set.union(*asked))
    assert sum(len(part.pairs) for part in parts) == len(data.pairs)
    assert all(part.pairs for part in parts)


def test_hits_and_thresholds_are_counted_by_hand() -> None:
    judged = module("cache").Judged(np.array([0.9, 0.8, 0.8, 0.7, 0.1]), np.array([True, True, False, True, False]))
    assert judged.threshold(0.0) == 0.9
    assert judged.threshold(0.2) == 0.7  # both of 0.8 are served together
    assert judged.hits(0.8) == (pytest.approx(0.6), pytest.approx(0.2))
    assert judged.threshold(0.4) == 0.1
    nothing = module("cache").Judged(np.array([0.9]), np.array([False]))
    assert nothing.threshold(0.1) == float("inf")


def test_ranks_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    right = rng.random(500) < 0.4
    scores = np.round(rng.random(500) + right * 0.5, 2)
    judged = module("cache").Judged(scores, right)
    assert judged.auc() == pytest.approx(metrics.roc_auc_score(right, scores))
    distinct = module("cache").Judged(scores + rng.random(500) * 1e-6, right)
    assert distinct.ap() == pytest.approx(metrics.average_precision_score(right, distinct.scores))


def near() -> Any:
    """0 and 1 mean the same; 2 is another question that looks like both; a veto keeps 3 from 0."""
    neighbour = module("cache_stream").Neighbour
    links = {
        (0, 1): (0.9, 0.95, None),
        (0, 2): (0.95, 0.6, None),
        (1, 2): (0.8, 0.7, None),
        (0, 3): (0.99, 0.99, "number"),
    }
    rows: list[list[Any]] = [[] for _ in range(4)]
    for (a, b), (cosine, score, struck) in links.items():
        rows[a].append(neighbour(b, cosine, score, struck))
        rows[b].append(neighbour(a, cosine, score, struck))
    return [sorted(row, key=lambda each: -each.cosine) for row in rows]


def test_a_stream_looks_up_what_came_before_and_stores_what_it_missed() -> None:
    stream = module("cache_stream")
    looks = stream.replay(near(), [7, 7, 8, 9], [0, 2, 1, 3], 0.65)
    assert [(look.stored, look.score, look.right) for look in looks] == [
        (-1, 0.0, False),
        (0, 0.6, False),
        (0, 0.95, True),
        (-1, 0.0, False),
    ]
    assert stream.hits_and_wrong(looks, 0.65) == (0.25, 0.0)
    # At 0.5 the second is served, and is not there for anybody after it.
    looks = stream.replay(near(), [7, 7, 8, 9], [0, 2, 1, 3], 0.5, vetoes=False)
    assert stream.hits_and_wrong(looks, 0.5) == (0.75, 0.5)


def test_evidence_counts_look_ups_by_their_best_score() -> None:
    stream = module("cache_stream")
    looks = stream.replay(near(), [7, 7, 8, 9], [0, 2, 1, 3], 0.65)
    found = stream.evidence(looks, [0.5, 0.7, 0.9])
    assert found.lookups == 4
    assert found.found == found.judged == (1, 0, 1)
    assert found.wrong == (1, 0, 0)


def test_near_pairs_are_found_and_nobody_is_near_itself() -> None:
    found = np.eye(6, 4, dtype=np.float32)
    found[4], found[5] = found[0], (found[1] + found[2]) / 2**0.5
    listed = module("cache_stream").near_pairs(found, 0.5)
    assert [[at for at, _ in row] for row in listed[:1]] == [[4]]
    assert {at for at, _ in listed[5]} == {1, 2}


def test_rivals_serve_at_their_thresholds() -> None:
    rivals = module("cache_rivals")
    found = np.array([[1, 0], [0.8, 0.6], [1, 0], [0, 1]], np.float32)
    done = rivals.at_cosine(found, [1, 2, 1, 3], [0, 1, 2, 3], 0.75)
    assert [(each.hit, each.wrong) for each in done] == [(False, False), (True, True), (True, False), (False, False)]
    assert not any(each.hit for each in rivals.at_cosine(found, [1, 2, 1, 3], [0, 1], 0.9))
    assert [each.hit for each in rivals.same_text(["x", "y", "x"], [1, 2, 1], [0, 1, 2])] == [False, False, True]


def test_vcache_keeps_its_promise_and_learns_to_serve() -> None:
    rivals = module("cache_rivals")
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((20, 16))
    meanings = [int(rng.integers(20)) for _ in range(1500)]
    found = np.array([centres[meaning] + 0.15 * rng.standard_normal(16) for meaning in meanings], np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    done = rivals.vcache(found, meanings, range(1500), 0.05, 0)
    assert sum(each.hit for each in done) / len(done) > 0.1
    assert sum(each.wrong for each in done) / len(done) <= 0.05
    assert rivals.explore([(0.0, False), (1.0, True)], 1.0, 0.01) == 1.0


def test_training_and_reported_edits_share_no_word() -> None:
    train, report = module("cache_fit_traps"), module("cache_traps")
    assert not words(train.OPPOSITES) & words(report.OPPOSITES)
    assert not words(train.UNITS) & words("|".join(report.UNITS.values()))


def words(text: str) -> set[str]:
    return set(text.replace("|", " ").split())


def test_edits_are_what_they_are_labelled() -> None:
    edits = module("cache_fit_traps")
    asked = [
        "Is a kilt better than a sari in Oslo?",
        "How do 3 men inhale smoke in Rome?",
        "Is Bergen older than Oslo?",
    ]
    made = edits.made(asked * 20, edits.Entities(asked), random.Random(2))
    assert {same for *_, same in made} == {True, False}
    assert all(a.lower() != b.lower() for a, b, same in made if not same)
    assert any("exhale" in b for _, b, _ in made)
    assert ("Is Bergen older than Oslo?", "Is Oslo older than Bergen?", False) in made
