"""What a file says of routing: its errors, what `trimtab check` warns of, a calibration of one's own, a dry run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import yaml
from harness import KEY, Serve, over
from stores import until
from valkeys import Valkey

from trimtab.backends.embed import open_embedder
from trimtab.backends.fake_server import FakeServer
from trimtab.gateway import cli
from trimtab.gateway.config import Config
from trimtab.gateway.config_file import check_file
from trimtab.gateway.waits import Waits
from trimtab.routing.features import features
from trimtab.routing.fitting import fit
from trimtab.routing.heads import to_json
from trimtab.routing.policy import RoutePolicy

DOC = Path(__file__).parents[2] / "docs" / "routing.md"
HEAD = {"authorization": f"Bearer {KEY}"}

FILE: dict[str, Any] = {
    "models": {
        "cheap": {"backend": "fake", "price": {"input": 0.1, "output": 0.4}},
        "dear": {"backend": "fake", "price": {"input": 2, "output": 8}},
    },
    "routes": {"auto": {"small": "cheap", "large": "dear"}},
}


def checked(folder: Path, route: dict[str, Any], **file: Any) -> tuple[list[str], list[str]]:
    path = folder / "c.yaml"
    tenants = {"acme": {"keys": ["sha256:" + "a" * 64], "policy": {"route": route}}}
    path.write_text(yaml.safe_dump({**FILE, "tenants": tenants, "ledger": {"path": str(folder / "l.db")}, **file}))
    report = check_file(path)
    return [str(error) for error in report.errors], [str(warning) for warning in report.warnings]


@pytest.mark.parametrize(
    ("route", "said"),
    [
        (
            {"rules": [{"goes": "cheep", "tag": "a"}]},
            "must be small, large or a model of a route, not 'cheep'; did you mean",
        ),
        ({"rules": [{"goes": "large"}]}, "needs a tag, a header or a prompt"),
        ({"rules": [{"goes": "large", "tags": "x"}]}, "unknown key"),
        ({"floor": 0.9, "judge": "nobody"}, "there is no model or route 'nobody'"),
        ({"floor": 2}, "must be at most 1"),
        ({"large_share": 0.3, "floor": 0.9}, "several goals"),
        ({"value": "x"}, "must be an amount of US dollars"),
        ({"floor": 0.9, "explore": 0.2}, "must be at most 0.1"),
    ],
)
def test_errors_are_said_in_words(tmp_path: Path, route: dict[str, Any], said: str) -> None:
    errors, _ = checked(tmp_path, route)
    assert len(errors) == 1
    assert said in errors[0]


def test_a_calibration_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("{}")
    for name, said in (("none.json", "is no calibration"), ("away.json", "cannot be read")):
        routes = {"auto": {"small": "cheap", "large": "dear", "calibration": str(tmp_path / name)}}
        errors, _ = checked(tmp_path, {"floor": 0.9}, routes=routes)
        assert len(errors) == 1
        assert said in errors[0]
        assert "calibration" in errors[0]


@pytest.mark.parametrize(
    ("route", "file", "said"),
    [
        ({"floor": 0.9, "judge": "dear"}, {}, ["the route auto has no calibration"]),
        ({"floor": 0.9}, {}, ["the route auto has no calibration", "count against the small model"]),
        ({"floor": 0.9, "audit": 0.0}, {}, ["the route auto has no calibration", "is never borne"]),
        ({"value": 1}, {}, ["without a calibration of that very pair"]),
        ({"large_share": 0.5}, {"routes": {"auto": {"large": "dear"}}}, ["no route has a small and a large model"]),
        ({"large_share": 0.5}, {"embedder": {"model": "/models/x"}}, ["reads the bundled embedder's vectors"]),
        ({"cascade": {"enabled": False}}, {}, []),
        ({"small_only": True}, {}, []),
        ({}, {}, []),
    ],
)
def test_a_check_says_what_a_route_lacks(
    tmp_path: Path, route: dict[str, Any], file: dict[str, Any], said: list[str]
) -> None:
    errors, warnings = checked(tmp_path, route, **file)
    assert errors == []
    about = [warning for warning in warnings if ".route" in warning]
    assert len(about) == len(said), about
    assert all(any(words in warning for warning in about) for words in said)


def test_money_wants_prices(tmp_path: Path) -> None:
    models = {**FILE["models"], "dear": {"backend": "openai", "base_url": "http://127.0.0.1:9/v1"}}
    _, warnings = checked(tmp_path, {"usd_per_day": 1}, models=models)
    assert any("cannot count what has no price: dear" in warning for warning in warnings)


def test_the_documents_example_is_a_configuration() -> None:
    found = re.findall(r"```yaml\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert found
    for text in found:
        written = {**FILE, **yaml.safe_load(text)}
        for route in written["routes"].values():
            route.pop("calibration", None)  # a file of the reader's
        config = Config.model_validate(written, context={"environ": {}})
        policies = [tenant.policy.route for tenant in config.tenants.values()]
        assert any(policy != RoutePolicy() for policy in policies)


def test_waits_forget() -> None:
    waits = Waits()
    assert waits.expected(stream=True) == 0
    waits.seen(4.0, stream=False)
    assert (waits.expected(stream=True), waits.expected(stream=False)) == (4.0, 4.0)
    for _ in range(100):
        waits.seen(0.5, stream=True)
        waits.seen(1.0, stream=False)
    assert waits.expected(stream=True) == 0.5
    assert waits.expected(stream=False) == pytest.approx(1.0, abs=0.01)


# A calibration of one's own.


def question(number: int) -> tuple[str, str]:
    """Two kinds of questions of a shop: one that the small model can answer, and one that it cannot."""
    easy = f"Where is my parcel number {1000 + number * 37}, which was sent last week?"
    hard = f"Compare the tariffs {number} and {number + 3} for my business and derive which one is cheaper, with proof."
    return easy, hard


async def own(path: Path, hard_is_bad: bool = True) -> Path:
    """Fitted on such questions, as `trimtab route fit` would."""
    texts = [text for number in range(60) for text in question(number)]
    embedder = open_embedder()
    vectors = await embedder.embed(texts)
    await embedder.close()
    hard = np.array([at % 2 == 1 for at in range(len(texts))], dtype=np.float32)
    labels = {"small": 1 - hard if hard_is_bad else hard, "large": np.ones_like(hard)}
    forms = np.array([features(text) for text in texts], dtype=np.float32)
    made = fit(vectors, forms, labels, name="shop", embedder=embedder.model, about="a test's", penalty=1.0)
    path.write_text(json.dumps(to_json(made)))
    return path


async def asked(session: aiohttp.ClientSession, base: str, text: str) -> tuple[str, str]:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], "temperature": 1}
    async with session.post(f"{base}/chat/completions", json=body, headers=HEAD) as response:
        assert response.status == 200, await response.text()
        return response.headers["x-trimtab-model"], response.headers["x-trimtab-route-reason"]


def shop(upstream: FakeServer, path: Path, **route: Any) -> dict[str, Any]:
    config = over(upstream, "cheap", "dear")
    config["models"]["cheap"]["price"] = {"input": 0.1, "output": 0.4}
    config["routes"] = {"auto": {"small": "cheap", "large": "dear", "calibration": str(path)}}
    config["tenants"]["acme"]["policy"] = {"route": {"deadline_ms": 5_000, **route}}
    return config


async def test_worth_by_a_calibration_of_ones_own(serve: Serve, upstream: FakeServer, tmp_path: Path) -> None:
    path = await own(tmp_path / "shop.json")
    config = shop(upstream, path, value=0.05, explore=0.0)
    async with serve(config) as running, aiohttp.ClientSession() as session:
        easy, hard = question(77)
        assert (await asked(session, running.base_url, easy))[0] == "cheap"
        assert (await asked(session, running.base_url, hard))[0] == "dear"
        assert "out of domain" in (await asked(session, running.base_url, "Write a haiku about autumn."))[1]
        # A new file, and a reload: it is another calibration now.
        await own(path, hard_is_bad=False)
        await running.gateway.apply(Config.model_validate(config, context={"environ": {}}))
        assert (await asked(session, running.base_url, easy))[0] == "dear"
        assert (await asked(session, running.base_url, hard))[0] == "cheap"
        # One that is broken meanwhile does not take the place of what serves.
        path.write_text("{}")
        with pytest.raises(ValueError, match="no calibration"):
            await running.gateway.apply(running.gateway.live.config)
        assert (await asked(session, running.base_url, hard))[0] == "cheap"


async def test_replicas_that_share_a_store_share_what_was_proven(
    serve: Serve, upstream: FakeServer, valkey: Valkey, tmp_path: Path
) -> None:
    path = await own(tmp_path / "shop.json")
    config = shop(upstream, path, floor=0.9, audit=1.0)
    config["store"] = {"redis": valkey.url, "secret": "for-the-tests-only"}
    upstream.use({"text": "It is on its way."})
    other = {**config, "ledger": {"path": str(tmp_path / "other.db")}}
    async with aiohttp.ClientSession() as session:
        async with serve(config) as one:
            for number in range(80):
                await asked(session, one.base_url, question(number)[0])
            await one.idle()
            assert (await asked(session, one.base_url, question(90)[0]))[0] == "cheap"
        async with serve(other) as two:
            await asked(session, two.base_url, question(91)[0])
            await two.idle()
            standing = two.gateway.routing.stage.router.standings.all()[0]
            await until(lambda: len(standing.audits) > 60)
            await asked(session, two.base_url, question(92)[0])
            await two.idle()
            assert (await asked(session, two.base_url, question(93)[0]))[0] == "cheap"


# A dry run.


def test_a_dry_run_shows_the_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tenants = {"acme": {"keys": ["sha256:" + "a" * 64], "policy": {"route": {"large_share": 0.0, "audit": 1.0}}}}
    config, request = tmp_path / "c.yaml", tmp_path / "r.json"
    config.write_text(yaml.safe_dump({**FILE, "tenants": tenants, "ledger": {"path": str(tmp_path / "l.db")}}))
    problem = (
        "Maria has 12 apples. She buys 3 more bags with 4 apples each and gives half of them away. How many are left?"
    )
    for text, model in ((problem, "cheap"), ("Prove that there are infinitely many primes.", "dear")):
        request.write_text(json.dumps({"model": "auto", "messages": [{"role": "user", "content": text}]}))
        assert cli.main(["explain", str(request), "-c", str(config), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        line = next(line for line in told["lines"] if line["stage"] == "route")
        assert line["did"] == told["targets"][0] == model
        assert any("the router decides" in note for note in told["notes"])
    assert not (tmp_path / "l.db").exists()
