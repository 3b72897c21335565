"""`trimtab engine serve MODEL`: the bundled engine alone behind OpenAI's API, without the gateway's stages."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from pydantic import ValidationError

from ...backends.registry import Unusable
from ...protocol.errors import TrimtabError
from ..config import Config
from ..engine_config import called
from ..listen import OpenDoor, check_listen
from ..logs import configure
from .serve import start

OPTIONS = ("compute", "threads", "kv_mb", "context_tokens", "most_running", "most_waiting")  # as in a file
_USUAL_STEP = 256  # tokens, where nobody says otherwise
# What would answer, change or route a request before the engine sees it.
_ALONE = {"cache": {"exact": False}, "compress": {"lossless": False}, "output": {"plan": False}}


def run(args: argparse.Namespace) -> int:
    configure(args.log_level)
    try:
        config = alone(args, os.environ)
        check_listen(config, config.server.host)
        from ...backends.engine.weights import obtain

        for weights in (args.weights, args.draft):
            if weights is not None:
                obtain(weights)
        return start(config, config, args)
    except ValidationError as e:
        return refused(e)
    except (OpenDoor, TrimtabError, Unusable, OSError) as e:
        print(f"trimtab: {e}", file=sys.stderr)
        return 1


def alone(args: argparse.Namespace, environ: Any) -> Config:
    """One model, one tenant without keys, and every stage that is not needed left out. Raises ValidationError."""
    server = {name: getattr(args, name) for name in ("host", "port") if getattr(args, name) is not None}
    data = {
        "server": server,
        "models": {args.name or called(args.weights): section(args)},
        "routes": {},
        "tenants": {"local": {"policy": _ALONE}},
    }
    return Config.model_validate(data, context={"environ": environ})


def section(args: argparse.Namespace) -> dict[str, Any]:
    """The model as a file would have it."""
    model: dict[str, Any] = {"backend": "engine", "weights": args.weights}
    model |= {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    if (args.most_running or 0) > _USUAL_STEP // 2:
        model["step_tokens"] = 2 * args.most_running  # each running answer takes one, and prompts must get on
    if args.no_speculation or args.draft is not None:
        model["speculation"] = {"enabled": not args.no_speculation, "model": args.draft}
    return model


def refused(error: ValidationError) -> int:
    """Say each thing that is wrong with the command line's options, in a line of its own."""
    for problem in error.errors():
        where = problem["loc"][-1] if problem["loc"] else "engine"
        said = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        print(f"trimtab: {'name' if where == '[key]' else where}: {said}", file=sys.stderr)
    return 1
