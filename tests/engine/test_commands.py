"""`trimtab engine serve` and `trimtab bench engine`, over a tiny model."""

import json

import pytest

from trimtab.gateway import cli
from trimtab.gateway.commands.engine import alone, name_of


def test_the_engine_alone_has_nothing_between_a_request_and_the_model():
    args = cli._parser().parse_args(
        ["engine", "serve", "model.gguf", "--port", "0", "--kv-mb", "64", "--compute", "float32", "--no-speculation"]
    )
    assert args.run is cli._engine_serve
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
    assert name_of(weights) == name


def test_what_is_wrong_with_an_option_is_said(capsys):
    assert cli.main(["engine", "serve", "model.gguf", "--kv-mb", "1"]) == 1
    assert "kv_mb" in capsys.readouterr().err


def test_weights_that_are_not_there_are_named(capsys, tmp_path):
    assert cli.main(["engine", "serve", str(tmp_path / "none.gguf"), "--port", "0"]) == 1
    assert "none.gguf" in capsys.readouterr().err


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
    assert [one["rate"] for one in written["loads"]] == [50.0, 200.0]
    assert all(one["refused"] == 0 and one["requests"] == 4 and one["tokens_s"] > 0 for one in written["loads"])


def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from trimtab.backends.engine.poisson import Load
    from trimtab.gateway.commands.plots import times_over_rate

    path = tmp_path / "load.png"
    times_over_rate(path, [Load(r, 10, 0, 5.0, 40 * r, 20.0, 90.0, 10.0, 30.0) for r in (0.5, 1.0, 2.0)], 1.8)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_file_without_prompts_is_named(tiny, tmp_path, capsys):
    data = tmp_path / "none.jsonl"
    data.write_text("{}\n")
    assert cli.main(["bench", "engine", str(tiny), "--data", str(data)]) == 1
    assert "none.jsonl" in capsys.readouterr().err
