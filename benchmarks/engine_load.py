"""The bundled model under requests that come at random times: `trimtab bench engine`, with the options of a benchmark.

python benchmarks/engine_load.py [--data FILE] [--json OUT] [--quick]
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from report import arguments

from trimtab.gateway.cli import main as trimtab

if __name__ == "__main__":
    options = arguments(__doc__, data="prompts, .jsonl or .jsonl.gz; made up if left out").parse_args()
    requests, tokens = (4, 8) if options.quick else (40, 32)
    words = ["bench", "engine", "--requests", str(requests), "--tokens", str(tokens), "--seed", str(options.seed)]
    if options.data:
        words += ["--data", str(options.data[0])]
    if options.json is not None:
        words += ["--json", str(options.json)]
        if find_spec("matplotlib"):
            words += ["--plot", str(options.json.with_suffix(".png"))]
    sys.exit(trimtab(words))
