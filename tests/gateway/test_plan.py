"""The plan in the running gateway: what is foreseen, learnt, reserved, remembered and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import yaml
from harness import KEY, OTHER_KEY, Running, Serve, over
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.backends.fake import FakeBackend
from trimtab.backends.fake_server import FakeServer
from trimtab.gateway import planning
from trimtab.gateway.admit import EXPECTED_OUTPUT, Admit, prompt_size
from trimtab.gateway.catalogue import Catalogue, Served
from trimtab.gateway.config import Config
from trimtab.gateway.config_notes import notes
from trimtab.gateway.limits_local import LocalLimiter
from trimtab.gateway.planning import Planning, beside
from trimtab.protocol.errors import BudgetExceeded
from trimtab.protocol.exchange import Caller, Exchange, Limits, Price, Receipt, Target, Tenant
from trimtab.protocol.messages import Request, Usage
from trimtab.routing.length import Key, LengthPlanner
from trimtab.routing.plan import Lengths, Plan, lengths
from trimtab.routing.policy import OutputPolicy
from trimtab.routing.reasoning import Thinking

ASKED: Any = [{"role": "user", "content": "What does a trim tab do?"}]


def limited(upstream: FakeServer, *names: str, **model: Any) -> dict[str, Any]:
    config = over(upstream, *names, **model)
    config["tenants"]["acme"]["limits"] = {"usd_per_day": 100}
    return config


def client(running: Running, key: str = KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=running.base_url, api_key=key, max_retries=0)


async def asked(running: Running, key: str = KEY, **more: Any) -> dict[str, Any]:
    """Ask, and tell the receipt."""
    async with client(running, key) as api:
        made: Any = {"model": "m", "messages": ASKED, **more}
        raw = await api.chat.completions.with_raw_response.create(**made)
        _ = [chunk async for chunk in raw.parse()] if more.get("stream") else raw
    headers = {"authorization": f"Bearer {key}"}
    await running.settled()
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{running.base_url}/receipts/{raw.headers['x-request-id']}", headers=headers) as response,
    ):
        return dict(await response.json())


def line(receipt: dict[str, Any], stage: str) -> dict[str, Any]:
    return dict(next(entry for entry in receipt["lines"] if entry["stage"] == stage))


# What is said.


async def test_nothing_is_read_where_nobody_asks(serve: Serve, upstream: FakeServer) -> None:
    async with serve(over(upstream)) as running:
        told = line(await asked(running), "plan")
    assert (told["did"], told["reason"]) == ("left alone", "nobody asks how long")
    assert "length" not in told


async def test_the_receipt_says_what_was_foreseen(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"tokens": 40})
    async with serve(limited(upstream)) as running:
        told = line(await asked(running), "plan")
        metrics = running.gateway.render_metrics().decode()
    assert told["did"] == "planned"
    assert told["length"] == sorted(told["length"])
    assert len(told["length"]) == 4
    assert 'trimtab_length_forecasts_total{model="m",within="p' in metrics


async def test_switched_off_it_says_so_and_reserves_as_before(serve: Serve, upstream: FakeServer) -> None:
    config = limited(upstream)
    config["tenants"]["acme"]["policy"] = {"output": {"plan": False}}
    async with serve(config) as running:
        told = await asked(running)
    assert line(told, "plan")["did"] == "off"
    body = upstream.seen[-1].body
    assert line(told, "admit")["tokens_before"] >= EXPECTED_OUTPUT
    assert line(told, "admit")["tokens_before"] <= EXPECTED_OUTPUT + len(body)


# What is learnt.


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_teach_their_own_tenant_only(serve: Serve, upstream: FakeServer, stream: bool) -> None:
    upstream.use({"tokens": 33})
    config = limited(upstream)
    config["tenants"]["zenith"]["limits"] = {"usd_per_day": 100}
    async with serve(config) as running:
        more: dict[str, Any] = {"stream": True} if stream else {}
        before = line(await asked(running, **more), "plan")["length"]
        for _ in range(30):
            told = await asked(running, **more)
        after = line(told, "plan")["length"]
        other = line(await asked(running, OTHER_KEY), "plan")["length"]
        planner = running.gateway.planning.planner
    assert other == before
    assert 25 <= after[0] <= 45
    assert planner.seen(Key("m", "acme")) == 31
    assert after[2] < before[2]
    # Once a route's own answers speak, its forecast is what is reserved.
    assert line(told, "admit")["tokens_before"] < EXPECTED_OUTPUT


@pytest.mark.parametrize(
    "script", [{"finish": "length"}, {"finish": "content_filter"}, {"faults": {"garble": ["usage_absent"]}}]
)
async def test_cut_answers_and_guessed_counts_teach_nothing(
    serve: Serve, upstream: FakeServer, script: dict[str, Any]
) -> None:
    upstream.use(script)
    async with serve(limited(upstream)) as running:
        await asked(running)
        await asked(running, stream=True)
        assert len(running.gateway.planning.planner) == 0


async def test_a_repeat_from_the_cache_teaches_nothing(serve: Serve, upstream: FakeServer) -> None:
    async with serve(limited(upstream)) as running:
        await asked(running, temperature=0)
        again = await asked(running, temperature=0)
        assert line(again, "recall")["did"] == "hit"
        assert running.gateway.planning.planner.seen(Key("m", "acme")) == 1


async def test_where_nobody_asks_a_sample_teaches(serve: Serve, upstream: FakeServer, monkeypatch: Any) -> None:
    monkeypatch.setattr(planning, "SURE", 3)
    async with serve(over(upstream)) as running:
        for _ in range(3 + 2 * planning.SAMPLED):
            await asked(running)
        assert running.gateway.planning.planner.seen(Key("m", "acme")) == 5


# What is remembered.


async def test_a_restart_and_a_reload_forget_nothing(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"tokens": 33})
    config = limited(upstream)
    async with serve(config) as running:
        for _ in range(25):
            await asked(running)
        told = line(await asked(running), "plan")["length"]
        written = {**config, "ledger": {"path": str(running.gateway.ledger.path)}}
        await running.gateway.apply(Config.model_validate(written, context={"environ": {}}))
        assert running.gateway.planning.planner.seen(Key("m", "acme")) == 26
        path = beside(running.gateway.ledger.path)
    kept = path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert "trim tab do" not in kept
    async with serve(config) as running:
        again = line(await asked(running), "plan")["length"]
    assert again == pytest.approx(told, rel=0.1)


async def test_a_tenant_that_is_gone_is_forgotten(serve: Serve, upstream: FakeServer) -> None:
    config = limited(upstream)
    async with serve(config) as running:
        await asked(running)
        left = {**config, "tenants": {"zenith": config["tenants"]["zenith"]}}
        left["ledger"] = {"path": str(running.gateway.ledger.path)}
        await running.gateway.apply(Config.model_validate(left, context={"environ": {}}))
        assert len(running.gateway.planning.planner) == 0


@pytest.mark.parametrize(
    "found",
    [b"", b"nonsense", b"[]", b'{"version":1,"lengths":7,"hints":7}', b'{"version":9}',
     b'{"version":1,"lengths":[["m","t","",{"seen":3,"information":[[0,0],[0,-9e9]],"pull":[0,0],"recent":[]}],1]}',
     b'{"version":1,"lengths":[["m","t","",{"seen":3,"information":[[1,0],[0]],"pull":[0,0],"recent":[1]}]]}',
     b'{"version":1,"hints":[["t","s",[1,2,3,4,5,6],["x"]]]}'],
)  # fmt: skip
async def test_a_file_that_is_none_is_begun_anew(tmp_path: Path, found: bytes) -> None:
    path = tmp_path / "ledger.lengths.json"
    path.write_bytes(found)
    made = Planning(path)
    await made.start()
    await made.close()
    assert len(made.planner) == 0
    assert made.effects.known == {}


@given(st.lists(st.tuples(st.floats(-3, 3), st.integers(1, 4_000)), max_size=120), st.floats(-3, 3))
def test_what_is_written_says_the_same_when_it_is_read(answers: list[tuple[float, int]], basis: float) -> None:
    planner, other = LengthPlanner(), LengthPlanner()
    key = Key("m", "t", "r")
    for one, tokens in answers:
        planner.learn(key, (one,), tokens)
    rows = json.loads(json.dumps(list(planner.rows(1_000, 256))))
    assert other.load(rows) == len(planner)
    assert other.told(key, (basis,))[:4] == pytest.approx(planner.told(key, (basis,))[:4], rel=0.35)


def test_what_is_kept_is_bounded_over_many_tenants() -> None:
    planner = LengthPlanner(most_keys=50)
    for number in range(500):
        planner.learn(Key("m", f"t{number}", "r"), (0.1,), 100)
    assert len(planner) == 50
    assert len(list(planner.rows(20, 64))) == 20


# What is reserved.

PRICE = Price(2_000_000, 2_000_000, 8_000_000, known=True)
BODY = Request.build("chat", {"model": "m", "messages": ASKED})


def exchange(tenant: Tenant, request: Request = BODY) -> Exchange:
    return Exchange("r", request, request, Caller(tenant), Receipt("r", tenant.name, 0.0, "m"), [], 0.0)


class Open:
    accepting = True


def admitting(planner: LengthPlanner, limiter: LocalLimiter, thinking: Thinking | None = None) -> Admit:
    served = Served(Target("m", "fake", "m", PRICE), FakeBackend(), thinking=thinking)
    return Admit(Catalogue([served]), limiter, Open(), planner)


@settings(max_examples=60)
@given(
    lengths_=st.lists(st.integers(1, 6_000), min_size=1, max_size=60),
    taught=st.lists(st.integers(1, 6_000), max_size=80),
    budget=st.integers(1_000, 400_000),
    together=st.integers(1, 6),
)
async def test_a_budget_is_overrun_by_no_more_than_answers_exceed_their_plan(
    lengths_: list[int], taught: list[int], budget: int, together: int
) -> None:
    """Whatever was learnt and whatever comes: what is spent stays within the budget, but for what the answers in flight
    used beyond what was reserved for each."""
    planner, limiter = LengthPlanner(), LocalLimiter(lambda: 0.0, lambda: 0.0)
    tenant = Tenant("t", Limits(microusd_per_day=budget))
    for tokens in taught:
        planner.learn(Key("m", "t"), (0.0,), tokens)
    admit, flying, beyond = admitting(planner, limiter), list[tuple[Exchange, int]](), 0
    for tokens in lengths_:
        made = exchange(tenant)
        try:
            await admit(made)
        except BudgetExceeded:
            continue
        flying.append((made, tokens))
        if len(flying) == together:
            done, used = flying.pop(0)
            usage = Usage(prompt=prompt_size(BODY.body), completion=used)
            reservation = done.facts["reservation"]
            limiter.settle(reservation, usage.total, PRICE.of(usage))
            beyond += max(0, PRICE.of(usage) - reservation.microusd)
        assert limiter.spent("t") <= budget + beyond


async def test_money_is_reserved_no_less_than_before_until_answers_have_taught() -> None:
    planner, limiter = LengthPlanner(), LocalLimiter(lambda: 0.0, lambda: 0.0)
    tenant = Tenant("t", Limits(tokens_per_minute=1_000_000))
    admit = admitting(planner, limiter)
    made = exchange(tenant)
    await admit(made)
    assert made.facts["reservation"].tokens >= EXPECTED_OUTPUT
    for _ in range(40):
        planner.learn(lengths(planner, made).key("m"), (0.0,), 20)
    after = exchange(tenant)
    await admit(after)
    assert after.facts["reservation"].tokens < EXPECTED_OUTPUT / 2
    capped = exchange(tenant, BODY.with_fields(max_tokens=7_000))
    await admit(capped)
    assert capped.facts["reservation"].tokens >= 7_000


async def test_thinking_is_reserved_beside_the_answer() -> None:
    planner = LengthPlanner()
    tenant = Tenant("t", Limits(tokens_per_minute=1_000_000))
    plain, thoughtful = exchange(tenant), exchange(tenant)
    await admitting(planner, LocalLimiter(lambda: 0.0, lambda: 0.0))(plain)
    await admitting(planner, LocalLimiter(lambda: 0.0, lambda: 0.0), Thinking("budget", 1_024, 8_000))(thoughtful)
    assert thoughtful.facts["reservation"].tokens == plain.facts["reservation"].tokens + 8_000


# The stage by itself.


async def test_who_asked_first_decides_that_all_are_told() -> None:
    planner = LengthPlanner()
    made = exchange(Tenant("t"))
    made.targets = (Target("m", "fake", "m"),)
    known = lengths(planner, made)
    assert isinstance(known, Lengths)
    known.of("m")
    await Plan(planner)(made)
    assert made.receipt.lines[-1].did == "planned"
    assert lengths(planner, made) is known


async def test_a_body_that_cannot_be_read_is_planned_blindly() -> None:
    request = Request.parse("chat", b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}')
    odd = Request.parse("chat", b'{"model":"m","messages":7}')
    for one in (request, odd):
        made = exchange(Tenant("t", policies={OutputPolicy: OutputPolicy(cap=True)}), one)
        made.targets = (Target("m", "fake", "m"),)
        await Plan()(made)
        assert made.receipt.lines[-1].did == "planned"


def test_a_policy_that_rests_on_the_plan_needs_it() -> None:
    with pytest.raises(ValueError, match="rest on it"):
        OutputPolicy(plan=False, cap=True)
    assert OutputPolicy.not_built == frozenset()


def test_the_documents_example_is_a_good_configuration() -> None:
    text = (Path(__file__).parents[2] / "docs" / "length.md").read_text()
    written = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    written["tenants"]["acme"]["keys"] = ["sha256:" + "a" * 64]
    made = Config.model_validate(written, context={"environ": {}})
    assert list(notes(made, written)) == []
    policy = made.tenants["acme"].policy.output
    assert policy.cap
    assert policy.reasoning
    assert policy.shape.style == "token_budget"
    assert made.models["local"].slots == 4
