"""What the bundled engine's commands take: fetch, quantize, engine serve, bench engine. Each imports what it does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .cli_options import add_log_level, command, count, group, rate

if TYPE_CHECKING:
    from .cli_options import Commands

_QUANTIZE_EPILOG = """examples:
  trimtab quantize smollm2-135m-instruct                          what 4 bits would cost this model; nothing is written
  trimtab quantize model.gguf --method rtn                        the same for plain rounding, to compare
  trimtab quantize model.gguf --data prompts.jsonl --out small/   calibrate with your own texts, and write the model

gptq rounds each weight so that the layer's products with real texts change least; rtn rounds each to the nearest. Texts
that calibrate are never the ones that measure: every fourth piece only measures. The texts should be like what the
model will read; without --data they are the articles that come with Python. The folder is in GPTQ's layout, which other
engines read too; serve it with `weights: FOLDER`.

exit status: 0 done; 1 the weights, the texts or the folder are to blame; 2 the command line is
"""


_ENGINE_EPILOG = """examples:
  trimtab engine serve                                            the small bundled model on http://127.0.0.1:4000
  trimtab engine serve qwen2.5-coder-1.5b.gguf --port 8000        a file of yours; its name is the model's name
  trimtab engine serve ./my-model --compute bfloat16 --kv-mb 4096 a folder of safetensors, more room for contexts

it speaks OpenAI's API: chat and legacy completions, streams, tools, JSON schemas, log-probabilities, seeds. There is no
cache, no compression, no routing and no key: for this machine only. `trimtab serve` is the whole gateway, which can
have the same engine as one of its models (docs/engine.md has its options).
"""


_BENCH_EPILOG = """examples:
  trimtab bench engine                                            the bundled model, from a fifth of its capacity on
  trimtab bench engine model.gguf --rates 0.5 1 2 --requests 200  these requests a second, 200 of each
  trimtab bench engine ./quantized --plot load.png --json load.json

first as many requests as run at once are kept in work all the time, which shows the capacity; then requests come at
random times (a Poisson process), at each of --rates, or at 20 to 110 % of the capacity. It prints, for each rate:
  tok/s    tokens of answers a second, all answers together
  TTFT     milliseconds from a request to the first of its text: waiting, and reading the prompt
  ITL      milliseconds between one piece of text and the next, as a client sees them
  P50/P99  half of them are no longer; one in a hundred is
  refused  requests that found the queue full
"""


_DEFAULT = "smollm2-135m-instruct"


def add_to(commands: Commands) -> None:
    _add_fetch(commands)
    _add_quantize(commands)
    _add_engine(commands)
    _add_bench(commands)


def _add_fetch(commands: Commands) -> None:
    fetch = command(
        commands,
        "fetch",
        _fetch,
        help="download a model's weights",
        description="Download weights from the first source that has them, checked by sha256.",
    )
    fetch.add_argument(
        "weights", nargs="?", default=_DEFAULT, metavar="MODEL", help=f"a name of the catalogue (default: {_DEFAULT})"
    )


def _add_quantize(commands: Commands) -> None:
    quantize = command(
        commands,
        "quantize",
        _quantize,
        help="make a model smaller, and say what it cost",
        description="Write a model's matrices in few bits, and measure perplexity, size and speed before and after.",
        examples=_QUANTIZE_EPILOG,
    )
    quantize.add_argument("weights", metavar="MODEL", help="a name of the catalogue, a .gguf file or a model's folder")
    quantize.add_argument("--method", choices=("gptq", "rtn"), default="gptq", help="default: gptq")
    quantize.add_argument("--bits", type=int, choices=(2, 3, 4, 8), default=4, help="only 4 can be written")
    quantize.add_argument("--group", type=count, default=32, help="inputs that share a scale (default: 32)")
    quantize.add_argument("--data", type=Path, nargs="+", default=[], metavar="FILE", help="texts: .txt, .jsonl(.gz)")
    quantize.add_argument("--tokens", type=count, default=16_384, help="how many calibrate (default: 16384)")
    quantize.add_argument("--out", type=Path, metavar="FOLDER", help="write the model there")


def _add_engine(commands: Commands) -> None:
    engine = group(commands, "engine", "the bundled engine alone")
    serve = command(
        engine,
        "serve",
        _engine_serve,
        help="serve one model with OpenAI's API, without the gateway's stages",
        description="Serve one model on the bundled engine with OpenAI's API, and nothing in between.",
        examples=_ENGINE_EPILOG,
    )
    _add_model(serve)
    serve.add_argument("--name", help="what clients ask for (default: the weights' name)")
    serve.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on, 0 for any free one (default: 4000)")
    add_log_level(serve)
    serve.set_defaults(config=None, fd=None)


def _add_bench(commands: Commands) -> None:
    bench = group(commands, "bench", "measure what this machine can do")
    engine = command(
        bench,
        "engine",
        _bench_engine,
        help="the engine's speed and waiting times under load",
        description="How fast a model answers on the bundled engine while requests come at random times.",
        examples=_BENCH_EPILOG,
    )
    _add_model(engine)
    engine.add_argument("--rates", type=rate, nargs="+", metavar="R", help="requests a second (default: by capacity)")
    engine.add_argument("--requests", type=count, default=60, help="of each rate (default: 60)")
    engine.add_argument("--tokens", type=count, default=48, help="of an answer, on average (default: 48)")
    engine.add_argument("--data", type=Path, metavar="FILE", help=".jsonl(.gz) with `prompt`, `question` or `turns`")
    engine.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well, as benchmarks do")
    engine.add_argument("--plot", type=Path, metavar="PNG", help="draw waiting times and throughput over the rate")
    engine.add_argument("--seed", type=int, default=0, help="of prompts, arrivals and answers (default: 0)")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        nargs="?",
        default=_DEFAULT,
        metavar="MODEL",
        help=f"a name of the catalogue, a .gguf file or a model's folder (default: {_DEFAULT})",
    )
    parser.add_argument("--compute", choices=("int8", "bfloat16", "float32", "int4"), help="default: what is best here")
    parser.add_argument("--threads", type=int, metavar="N", help="of the engine's products (default: up to four)")
    parser.add_argument("--kv-mb", type=int, metavar="MIB", help="for keys and values of all answers (default: 512)")
    parser.add_argument("--context-tokens", type=int, metavar="N", help="of prompt and answer (default: the model's)")
    parser.add_argument("--most-running", type=int, metavar="N", help="answers at a time (default: 16)")
    parser.add_argument("--most-waiting", type=int, metavar="N", help="requests that may wait (default: 64)")
    parser.add_argument("--draft", metavar="MODEL", help="a smaller model of the same vocabulary that guesses ahead")
    parser.add_argument("--no-speculation", action="store_true", help="do not guess ahead")


def _fetch(args: argparse.Namespace) -> int:
    from .commands import fetch

    return fetch.run(args.weights)


def _quantize(args: argparse.Namespace) -> int:
    from .commands import quantize

    return quantize.run(args.weights, args.method, args.bits, args.group, args.data, args.out, args.tokens)


def _engine_serve(args: argparse.Namespace) -> int:
    from .commands import engine

    return engine.run(args)


def _bench_engine(args: argparse.Namespace) -> int:
    from .commands import bench

    return bench.run(args)
