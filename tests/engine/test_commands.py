"""`trimtab engine serve` and `trimtab bench engine`, over a tiny model."""

import argparse
import asyncio
import json
import re
import threading

import pytest

from trimtab.gateway import cli, cli_engine
from trimtab.gateway.commands.engine import alone
from trimtab.gateway.engine_config import called
from trimtab.gateway.server import build


def test_the_engine_alone_has_nothing_between_a_request_and_the_model():
    args = cli._parser().parse_args(
        ["engine", "serve", "model.gguf", "--port", "0", "--kv-mb", "64", "--compute", "float32", "--no-speculation"]
    )
    assert args.run is cli_engine._engine_serve
    config = alone(args, {"HOME": "/nowhere"})
    [(name, model)] = config.models.items()
    assert (name, model.weights, model.kv_mb, model.compute) == ("model", "model.gguf", 64, "float32")
    assert model.backend_options()["speculation"] is False
    assert config.routes == {}
    [tenant] = config.tenants.values()
    policy = tenant.policy
    assert (policy.cache.exact, policy.cache.semantic.enabled, policy.compress.lossless, policy.output.plan) == (
        False,
        False,
        False,
        False,
    )


def test_a_model_that_drafts_is_named_on_the_command_line(tiny, capsys):
    parsed = cli._parser().parse_args(["engine", "serve", "big.gguf", "--draft", "small.gguf"])
    [model] = alone(parsed, {"HOME": "/nowhere"}).models.values()
    assert (model.backend_options()["draft_weights"], model.speculation.enabled) == ("small.gguf", True)
    assert cli.main(["engine", "serve", str(tiny), "--draft", "/nowhere/small.gguf"]) == 1
    assert "small.gguf" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ("a/b c.gguf", "b-c"),
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("./folder/", "folder"),
        ("/", "engine"),
    ],
)
def test_a_model_is_named_after_its_weights(weights, name):
    assert called(weights) == name


@pytest.mark.parametrize("command", [("engine", "serve"), ("bench", "engine")])
@pytest.mark.parametrize(("option", "value"), [("kv-mb", "1"), ("threads", "0"), ("most-running", "0")])
def test_what_is_wrong_with_an_option_is_said(tiny, capsys, command, option, value):
    assert cli.main([*command, str(tiny), f"--{option}", value]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"trimtab: {option.replace('-', '_')}: should be")


@pytest.mark.parametrize(
    "wrong",
    [
        ("bench", "engine", "--rates", "0"),
        ("bench", "engine", "--rates", "nan"),
        ("bench", "engine", "--requests", "0"),
        ("bench", "engine", "--tokens", "-3"),
        ("quantize", "m", "--group", "0"),
        ("quantize", "m", "--tokens", "many"),
    ],
)
def test_a_number_that_is_none_is_the_command_lines_fault(capsys, wrong):
    with pytest.raises(SystemExit) as e:
        cli.main([*wrong])
    assert e.value.code == 2
    assert f"argument {wrong[2]}: must be a" in capsys.readouterr().err


def test_where_nothing_can_be_written_is_said_before_the_work(tiny, tmp_path, capsys):
    out = tmp_path / "none" / "load.json"
    assert cli.main(["bench", "engine", str(tiny), "--json", str(out), "--requests", "100000"]) == 1
    assert f"there is no folder {out.parent}" in capsys.readouterr().err


def test_a_step_has_room_for_all_that_run():
    parsed = cli._parser().parse_args(["engine", "serve", "model.gguf", "--most-running", "300"])
    [model] = alone(parsed, {"HOME": "/nowhere"}).models.values()
    assert model.step_tokens == 600


@pytest.mark.parametrize("command", [("engine", "serve"), ("bench", "engine"), ("quantize",)])
def test_weights_that_are_not_there_are_named_once(command, capsys, caplog, tmp_path):
    assert cli.main([*command, str(tmp_path / "none.gguf")]) == 1
    assert capsys.readouterr().err.count("none.gguf") == 1
    assert caplog.text == ""


def test_a_bench_prints_and_writes_each_rate(tiny, tmp_path, capsys):
    out, data = tmp_path / "load.json", tmp_path / "prompts.jsonl"
    data.write_text('{"prompt": "hello {world}"}\n{"turns": ["hell in the world"]}\n')
    command = [
        "bench",
        "engine",
        str(tiny),
        "--threads",
        "1",
        "--requests",
        "4",
        "--tokens",
        "4",
        "--rates",
        "50",
        "200",
    ]
    assert cli.main([*command, "--most-running", "2", "--data", str(data), "--json", str(out)]) == 0
    assert "TTFT P99" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert {"benchmark", "version", "commit", "machine", "date", "seed", "rows"} <= set(written)
    assert written["benchmark"] == "engine_load"
    figures = {(row["system"], row["metric"]): row for row in written["rows"]}
    assert figures[tiny.stem, "capacity"]["value"] > 0
    for rate in ("50.00 requests/s", "200.00 requests/s"):
        found = {metric: row["value"] for (system, metric), row in figures.items() if system == rate}
        assert found["refused"] == 0
        assert found["throughput"] > 0
        assert found["ttft_p99_ms"] >= found["ttft_p50_ms"] > 0
        assert found["itl_p99_ms"] >= found["itl_p50_ms"] > 0
        assert figures[rate, "refused"]["n"] == 4


def test_what_no_answer_told_is_left_out_of_the_figures():
    from trimtab.backends.engine.poisson import Load
    from trimtab.gateway.commands.bench import report

    nan = float("nan")
    args = argparse.Namespace(weights="m.gguf", compute="int8", requests=9, tokens=10, most_running=None, seed=3)
    made = report([Load(7.5, 9, 9, 1.0, 0.0, nan, nan, nan, nan)], 2.5, args).to_json()
    assert [(row["metric"], row["system"], row["value"], row["n"]) for row in made["rows"]] == [
        ("capacity", "m int8", 2.5, 32),
        ("throughput", "7.50 requests/s", 0.0, 9),
        ("refused", "7.50 requests/s", 9, 9),
    ]
    assert made["seed"] == 3
    assert "answers of 5 to 15 tokens" in made["notes"][0]


def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from trimtab.backends.engine.poisson import Load
    from trimtab.gateway.commands.plots import times_over_rate

    path = tmp_path / "load.png"
    times_over_rate(path, [Load(r, 10, 0, 5.0, 40 * r, 20.0, 90.0, 10.0, 30.0) for r in (0.5, 1.0, 2.0)], 1.8)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_file_without_prompts_is_named(tiny, tmp_path, capsys):
    data = tmp_path / "none.jsonl"
    for text, where in (("{}\n", "none.jsonl"), ('{"prompt": "a"}\nhello\n', "none.jsonl, line 2")):
        data.write_text(text)
        assert cli.main(["bench", "engine", str(tiny), "--data", str(data)]) == 1
        assert where in capsys.readouterr().err


async def test_metrics_show_whose_the_pages_are(tiny, ask, tmp_path, monkeypatch):
    args = cli._parser().parse_args(["engine", "serve", str(tiny), "--name", "tiny", "--threads", "1"])
    gateway = build(alone(args, {"XDG_STATE_HOME": str(tmp_path)}))

    def shown(what):
        text = gateway.render_metrics().decode()
        return {state: int(float(n)) for state, n in re.findall(rf'{what}{{model="tiny",state="(\w+)"}} (\S+)', text)}

    await gateway.start()
    try:
        [served] = gateway.live.catalogue.all()
        while not served.backend.ready():
            await asyncio.sleep(0.005)
        idle = shown("trimtab_engine_pages")
        total = idle["free"]
        assert (idle["cached"], idle["used"]) == (0, 0)

        inner, turns = served.backend._loop.loaded.engine, threading.Semaphore(0)
        step = inner.step
        monkeypatch.setattr(inner, "step", lambda: turns.acquire() and step())
        stream = await served.backend.stream(ask(messages=[{"role": "user", "content": "hello " * 90}], stream=True))
        turns.release()
        while not (pages := shown("trimtab_engine_pages"))["used"]:
            await asyncio.sleep(0.005)
        assert sum(pages.values()) == total
        assert shown("trimtab_engine_answers") == {"running": 1, "waiting": 0}

        turns.release(10_000)
        await anext(aiter(stream))
        await stream.aclose()
        while (pages := shown("trimtab_engine_pages"))["used"]:
            await asyncio.sleep(0.005)
        assert sum(pages.values()) == total
        assert pages["cached"] > 0
        assert shown("trimtab_engine_answers") == {"running": 0, "waiting": 0}
    finally:
        await gateway.close()
