"""`trimtab serve`: read the configuration, fetch what it needs, serve until told to stop."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from pydantic import ValidationError

from ...backends.registry import Unusable
from ...protocol.errors import TrimtabError
from ..config import Config, ServerConfig, default_config
from ..config_file import ConfigError, load_config
from ..listen import OpenDoor, check_listen
from ..logs import configure

BANNER = """
trimtab serves {models} on {url}

  curl {url}/v1/chat/completions -H 'content-type: application/json'{header} \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Name three colours."}}]}}'

  # pip install openai
  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  messages = [{{"role": "user", "content": "Name three colours."}}]
  answer = client.chat.completions.create(model="{model}", messages=messages)
  print(answer.choices[0].message.content)
"""


_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104


def run(args: argparse.Namespace) -> int:
    configure(args.log_level)
    try:
        written = default_config(os.environ) if args.config is None else load_config(args.config)
        config = _overruled(written, args)
        check_listen(config, config.server.host)
        _weights(config)
        if config.server.workers > 1 and args.fd is None:
            from ..workers import supervise

            return supervise(config, sys.argv[1:])
        return start(config, written, args)
    except ValidationError as e:
        for problem in e.errors():
            print(f"trimtab: --{'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)
        return 1
    except (ConfigError, OpenDoor, TrimtabError, Unusable, OSError) as e:
        print(f"trimtab: {e}", file=sys.stderr)
        return 1


def start(config: Config, written: Config, args: argparse.Namespace) -> int:
    """Serve until told to stop; `written` is what a reload compares with, `args` says `config` (a file) and `fd`."""
    import uvloop

    from ..server import build, serve

    listener = None if args.fd is None else socket.socket(fileno=args.fd)

    def ready(host: str, port: int) -> None:
        if args.fd is None:
            print(banner(config, host, port), flush=True)

    uvloop.run(serve(build(config), config, path=args.config, written=written, listener=listener, ready=ready))
    return 0


def banner(config: Config, host: str, port: int) -> str:
    """The lines to paste, for the first name that can be asked for."""
    keyless = any(not tenant.keys for tenant in config.tenants.values())
    names = [*config.routes, *config.models]
    shown = f"[{host}]" if ":" in host else host
    return BANNER.format(
        url=f"http://{'127.0.0.1' if host in _ANYWHERE else shown}:{port}",
        models=", ".join(names),
        model=names[0] if names else "auto",
        header="" if keyless else ' -H "authorization: Bearer $TRIMTAB_KEY"',
        key="local" if keyless else "tt-...",
    )


def _overruled(config: Config, args: argparse.Namespace) -> Config:
    """The configuration with what the command line says instead. Raises pydantic's ValidationError."""
    changes = {name: getattr(args, name) for name in ("host", "port", "workers") if getattr(args, name) is not None}
    if changes:
        server = ServerConfig.model_validate({**config.server.model_dump(), **changes})
        config = config.model_copy(update={"server": server})
    if args.ledger is not None:
        ledger = config.ledger.model_copy(update={"path": Path(args.ledger).expanduser()})
        config = config.model_copy(update={"ledger": ledger})
    return config


def _weights(config: Config) -> None:
    """Fetch the engine's weights before serving, where the progress can be seen."""
    wanted = {model.weights for model in config.models.values() if model.backend == "engine"}
    if not wanted:
        return
    from ...backends.engine.weights import obtain

    for weights in sorted(wanted):
        obtain(weights)
