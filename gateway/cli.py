"""The command line: `trimtab serve`, `check`, `explain`, `route`, `replay`, `lengths`, `engine`, `bench` and others.

Nothing heavy is imported until the command that needs it runs, so `trimtab --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LEVELS = ("debug", "info", "warning", "error")
_EPILOG = """examples:
  trimtab serve                          the small bundled model on http://127.0.0.1:4000, no keys, this machine only
  trimtab serve -c trimtab.yaml          models, routes, tenants and policies from a file; a change is picked up live
  trimtab check trimtab.yaml             everything wrong with the file, with line numbers (a LiteLLM file is fine too)
  trimtab explain request.json           what every stage would do to a request, as a coloured diff; nothing is sent
  trimtab route fit labels.jsonl         a router for your two models, from your own labelled prompts
  trimtab keys new acme                  a key for the tenant 'acme', and the line for the file
  trimtab demo                           a few requests through the openai client, and what each one cost
"""

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

_EXPLAIN_EPILOG = """examples:
  trimtab explain request.json -c trimtab.yaml --tenant acme
  trimtab explain request.json --full | less      every word of what would change
  trimtab explain request.json --json | jq .tokens_after
  curl -s https://example.com/request.json | trimtab explain - --tenant acme

a request is what a client would POST:
  {"model": "auto", "messages": [{"role": "user", "content": "..."}], "trimtab": {"query": "..."}}

exit status: 0 explained; 1 the configuration or the request is wrong; 2 the command line is, or the tenant unknown
"""


_ROUTE_EPILOG = """a line of LOG.jsonl (also .gz) is one prompt and how good each model's answer to it was, 0 to 1:
  {"prompt": "Why is the sky blue?", "good": {"small": 1, "large": 1}}
  {"messages": [{"role": "user", "content": "..."}], "good": {"small": 0, "large": 1}, "answers": {"small": "..."}}
with the small model's answers in every row, the cascade is fitted too. A few hundred prompts are a beginning.
"""

_FIT_EPILOG = (
    """examples:
  trimtab route fit labels.jsonl --out support.json --plot support.png
  trimtab route fit march.jsonl april.jsonl --small llama-8b --large gpt-4.1 --name "support, spring"

"""
    + _ROUTE_EPILOG
)

_EVAL_EPILOG = (
    """examples:
  trimtab route eval --data may.jsonl --calibration support.json --plot may.png
  trimtab route eval --data may.jsonl                  what the calibration that ships is worth on your prompts

"""
    + _ROUTE_EPILOG
)


_REPLAY_EPILOG = """examples:
  trimtab replay ledger.sqlite --tenant acme --policy policies.yaml --plots out/
  trimtab replay labels.jsonl --policy policies.yaml --price small=0.05/0.20 --price large=2/0.5/8
  trimtab replay labels.jsonl --policy trimtab.yaml -c trimtab.yaml --calibration support.json

policies.yaml is one policy, written as in a tenant's `route:`, or several by name:
  careful: {floor: 0.98, audit: 0.05}
  third:   {large_share: 0.33}
  budget:  {usd_per_day: 5}

LOG is a ledger (what was thought of each prompt is on its receipts), or labelled prompts as `trimtab route fit` takes
them, perhaps with "at" (seconds since 1970), "tokens" {"prompt": 210, "small": 95, "large": 130}, "session", "model".
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status is 0 when it worked, 1 when it did not, 2 when the command line is wrong."""
    args = _parser().parse_args(argv)
    if not hasattr(args, "run"):
        _parser().print_help()
        return 2
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _forget_output()
        return 1
    except OSError as e:
        if e.errno not in _FULL:
            raise
        _forget_output()
        print(f"trimtab: cannot write: {e.strerror}; make room, or write elsewhere", file=sys.stderr)
        return 1
    return status


def _forget_output() -> None:
    """Let what could not be written go nowhere, or Python would try once more as it ends, and complain again."""
    with contextlib.suppress(OSError, ValueError):  # standard output is no file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trimtab",
        description="An OpenAI-compatible gateway that makes LLM requests smaller, cheaper or unnecessary.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trimtab {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_serve(commands)
    _add_check(commands)
    _add_explain(commands)
    _add_route(commands)
    _add_replay(commands)
    _add_lengths(commands)
    _add_keys(commands)
    _add_fetch(commands)
    _add_quantize(commands)
    _add_engine(commands)
    _add_bench(commands)
    _add_demo(commands)
    return parser


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def _add_serve(commands: Commands) -> None:
    serve = commands.add_parser("serve", help="run the gateway", description="Run the gateway.")
    _add_config(serve)
    serve.add_argument("--host", help="address to listen on (default: the file's, else 127.0.0.1)")
    serve.add_argument(
        "--port", type=int, help="port to listen on, 0 for any free one (default: the file's, else 4000)"
    )
    serve.add_argument("--workers", type=int, help="processes that share the port (default: 1)")
    serve.add_argument("--ledger", type=Path, metavar="FILE", help="the SQLite file that receipts go to")
    serve.add_argument("--log-level", default=_log_level(), choices=LEVELS)
    serve.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        default=_env_path("TRIMTAB_CONFIG", "CONFIG_FILE_PATH"),
        metavar="FILE",
        help="configuration file, ours or LiteLLM's (default: $TRIMTAB_CONFIG, else none: one local tenant)",
    )


def _add_check(commands: Commands) -> None:
    check = commands.add_parser(
        "check",
        help="check a configuration file",
        description="Check a configuration file; every finding names its line.",
    )
    check.add_argument("file", type=Path)
    check.set_defaults(run=_check)


def _add_explain(commands: Commands) -> None:
    explain = commands.add_parser(
        "explain",
        help="show what would be done to a request",
        description="Show what every stage would do to a request, and why: a dry run. Nothing is sent to a model that\n"
        "answers, nothing is counted, nothing is kept. Removed text is red, added text is green; without\n"
        "colours they are [-removed-] and {+added+}.",
        epilog=_EXPLAIN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    explain.add_argument(
        "request", metavar="REQUEST", help="a file with a request's JSON body, or - for standard input"
    )
    explain.add_argument(
        "-t", "--tenant", metavar="NAME", help="whose policy applies (may be left out if the file has one tenant)"
    )
    _add_config(explain)
    explain.add_argument(
        "--protocol",
        choices=("chat", "completions", "messages", "responses"),
        help="what the request is (default: seen from its fields); messages is Anthropic's",
    )
    explain.add_argument("--full", action="store_true", help="leave nothing out, however long")
    explain.add_argument("--json", action="store_true", help="print JSON: the stages' lines, and the request as sent")
    explain.set_defaults(run=_explain)


def _add_route(commands: Commands) -> None:
    route = commands.add_parser("route", help="fit and judge a router's calibration").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    fit = route.add_parser(
        "fit",
        help="fit a calibration to labelled prompts",
        description="Fit a calibration for a pair of models to labelled prompts, and write it as JSON that\n"
        "a person can review: what it is worth, cross-validated, stands at the top of the file.",
        epilog=_FIT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.add_argument("log", type=Path, nargs="+", metavar="LOG.jsonl", help="files of labelled prompts")
    fit.add_argument("-o", "--out", type=Path, default=Path("calibration.json"), metavar="FILE")
    fit.add_argument("--name", help="what the calibration is called on receipts (default: the pair's names)")
    _add_pair(fit)
    fit.set_defaults(run=_route_fit)
    judged = route.add_parser(
        "eval",
        help="judge a calibration on labelled prompts",
        description="Judge a calibration on labelled prompts. Those that it was fitted on are left out.",
        epilog=_EVAL_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    judged.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="files of labelled prompts")
    judged.add_argument("--calibration", type=Path, metavar="FILE", help="default: the one that ships")
    _add_pair(judged)
    judged.set_defaults(run=_route_eval)


def _add_replay(commands: Commands) -> None:
    replay = commands.add_parser(
        "replay",
        help="what a routing policy would have done to recorded traffic",
        description="What routing policies would have done to recorded traffic: money, share, quality.",
        epilog=_REPLAY_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    replay.add_argument("log", type=Path, nargs="+", metavar="LOG", help="a ledger, or files of labelled prompts")
    replay.add_argument("--policy", type=Path, required=True, metavar="FILE", help="YAML: a policy, or several by name")
    replay.add_argument("-c", "--config", type=Path, metavar="FILE", help="a configuration to take models' prices from")
    replay.add_argument(
        "--price", type=_price, action="append", default=[], metavar="NAME=IN/OUT", help="US dollars a million tokens"
    )
    replay.add_argument("--calibration", type=Path, metavar="FILE", help="for labelled prompts (default: what ships)")
    replay.add_argument("--small", metavar="NAME", help="the small model's name in the labels (default: small)")
    replay.add_argument("--large", metavar="NAME", help="the large model's (default: large)")
    replay.add_argument("-t", "--tenant", metavar="NAME", help="of a ledger, this tenant's requests only")
    replay.add_argument("--plots", type=Path, metavar="FOLDER", help="draw money.png, share.png and quality.png there")
    replay.add_argument("--json", action="store_true", help="print JSON")
    replay.add_argument("--seed", type=int, default=0, help="of audits and intervals (default: 0)")
    replay.set_defaults(run=_replay)


def _price(text: str) -> tuple[str, object]:
    from .commands.recorded import price

    try:
        return price(text)
    except (ValueError, ArithmeticError) as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def _add_pair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--small", metavar="NAME", help="the small model's name in the labels (default: small)")
    parser.add_argument("--large", metavar="NAME", help="the large model's (default: large)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw quality over the large model's share")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap's draws (default: 0)")


def _add_lengths(commands: Commands) -> None:
    lengths = commands.add_parser(
        "lengths",
        help="show what was learnt of answers' lengths",
        description="Show what a gateway has learnt of its answers' lengths, by tenant, model and route, and what\n"
        "hints for shorter answers do to them. It reads the file beside the gateway's ledger, at most a minute old.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config(lengths)
    lengths.add_argument("-t", "--tenant", metavar="NAME", help="this tenant's only")
    lengths.add_argument("--json", action="store_true", help="print JSON")
    lengths.set_defaults(run=_lengths)


def _add_keys(commands: Commands) -> None:
    keys = commands.add_parser("keys", help="make and hash keys").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    new = keys.add_parser(
        "new",
        help="make a key for a tenant",
        description="Make a key. It is shown once; only its hash goes into the file.",
    )
    new.add_argument("tenant")
    new.set_defaults(run=_keys_new)
    digest = keys.add_parser(
        "hash",
        help="hash a key read from standard input",
        description="Hash a key that you have; it is read from standard input, to stay out of the shell's history.",
    )
    digest.set_defaults(run=_keys_hash)


def _add_fetch(commands: Commands) -> None:
    fetch = commands.add_parser(
        "fetch",
        help="download a model's weights",
        description="Download weights from the first source that has them, checked by sha256.",
    )
    fetch.add_argument("weights", nargs="?", default="smollm2-135m-instruct")
    fetch.set_defaults(run=_fetch)


def _add_quantize(commands: Commands) -> None:
    quantize = commands.add_parser(
        "quantize",
        help="make a model smaller, and say what it cost",
        description="Write a model's matrices in few bits, and measure perplexity, size and speed before and after.",
        epilog=_QUANTIZE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    quantize.add_argument("weights", metavar="MODEL", help="a name of the catalogue, a .gguf file or a model's folder")
    quantize.add_argument("--method", choices=("gptq", "rtn"), default="gptq")
    quantize.add_argument("--bits", type=int, choices=(2, 3, 4, 8), default=4, help="only 4 can be written")
    quantize.add_argument("--group", type=int, default=32, help="inputs that share a scale (default: 32)")
    quantize.add_argument("--data", type=Path, nargs="+", default=[], metavar="FILE", help="texts: .txt, .jsonl(.gz)")
    quantize.add_argument("--tokens", type=int, default=16_384, help="how many calibrate (default: 16384)")
    quantize.add_argument("--out", type=Path, metavar="FOLDER", help="write the model there")
    quantize.set_defaults(run=_quantize)


def _add_engine(commands: Commands) -> None:
    engine = commands.add_parser("engine", help="the bundled engine alone").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    serve = engine.add_parser(
        "serve",
        help="serve one model with OpenAI's API, without the gateway's stages",
        description="Serve one model on the bundled engine with OpenAI's API, and nothing in between.",
        epilog=_ENGINE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_model(serve)
    serve.add_argument("--name", help="what clients ask for (default: the weights' name)")
    serve.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on, 0 for any free one (default: 4000)")
    serve.add_argument("--log-level", default=_log_level(), choices=LEVELS)
    serve.set_defaults(run=_engine_serve, config=None, fd=None)


def _add_bench(commands: Commands) -> None:
    bench = commands.add_parser("bench", help="measure what this machine can do").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    engine = bench.add_parser(
        "engine",
        help="the engine's speed and waiting times under load",
        description="How fast a model answers on the bundled engine while requests come at random times.",
        epilog=_BENCH_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_model(engine)
    engine.add_argument("--rates", type=float, nargs="+", metavar="R", help="requests a second (default: by capacity)")
    engine.add_argument("--requests", type=int, default=60, help="of each rate (default: 60)")
    engine.add_argument("--tokens", type=int, default=48, help="of an answer, on average (default: 48)")
    engine.add_argument("--data", type=Path, metavar="FILE", help=".jsonl(.gz) with `prompt`, `question` or `turns`")
    engine.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    engine.add_argument("--plot", type=Path, metavar="PNG", help="draw waiting times and throughput over the rate")
    engine.add_argument("--seed", type=int, default=0, help="of prompts, arrivals and answers (default: 0)")
    engine.set_defaults(run=_bench_engine)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        nargs="?",
        default="smollm2-135m-instruct",
        metavar="MODEL",
        help="a name of the catalogue, a .gguf file or a model's folder (default: smollm2-135m-instruct)",
    )
    parser.add_argument("--compute", choices=("int8", "bfloat16", "float32", "int4"), help="default: what is best here")
    parser.add_argument("--threads", type=int, metavar="N", help="of the engine's products (default: up to four)")
    parser.add_argument("--kv-mb", type=int, metavar="MIB", help="for keys and values of all answers (default: 512)")
    parser.add_argument("--context-tokens", type=int, metavar="N", help="of prompt and answer (default: the model's)")
    parser.add_argument("--most-running", type=int, metavar="N", help="answers at a time (default: 16)")
    parser.add_argument("--most-waiting", type=int, metavar="N", help="requests that may wait (default: 64)")
    parser.add_argument("--no-speculation", action="store_true", help="do not guess ahead")


def _add_demo(commands: Commands) -> None:
    demo = commands.add_parser("demo", help="send a few requests and show their receipts")
    demo.add_argument("--url", help="a running gateway (default: start one for the demo)")
    demo.add_argument("--key", default=os.environ.get("TRIMTAB_KEY", "local"), help="the API key to use")
    demo.add_argument("--model", default="auto")
    demo.set_defaults(run=_demo)


def _serve(args: argparse.Namespace) -> int:
    from .commands import serve

    return serve.run(args)


def _check(args: argparse.Namespace) -> int:
    from .commands import check

    return check.run(args.file)


def _explain(args: argparse.Namespace) -> int:
    from .commands import explain

    return explain.run(args)


def _engine_serve(args: argparse.Namespace) -> int:
    from .commands import engine

    return engine.run(args)


def _bench_engine(args: argparse.Namespace) -> int:
    from .commands import bench

    return bench.run(args)


def _route_fit(args: argparse.Namespace) -> int:
    from .commands import route

    return route.fit(args)


def _route_eval(args: argparse.Namespace) -> int:
    from .commands import route

    return route.evaluate(args)


def _replay(args: argparse.Namespace) -> int:
    from .commands import replay

    return replay.run(args)


def _lengths(args: argparse.Namespace) -> int:
    from .commands import lengths

    return lengths.run(args)


def _keys_new(args: argparse.Namespace) -> int:
    from .commands import keys

    return keys.new(args.tenant)


def _keys_hash(args: argparse.Namespace) -> int:
    from .commands import keys

    return keys.from_stdin()


def _fetch(args: argparse.Namespace) -> int:
    from .commands import fetch

    return fetch.run(args.weights)


def _quantize(args: argparse.Namespace) -> int:
    from .commands import quantize

    return quantize.run(args.weights, args.method, args.bits, args.group, args.data, args.out, args.tokens)


def _demo(args: argparse.Namespace) -> int:
    from .commands import demo

    return demo.run(args.url, args.key, args.model)


def _log_level() -> str:
    level = os.environ.get("TRIMTAB_LOG", "info").lower()
    return level if level in LEVELS else "info"


def _env_path(*names: str) -> Path | None:
    return next((Path(os.environ[name]) for name in names if os.environ.get(name)), None)


if __name__ == "__main__":
    sys.exit(main())
