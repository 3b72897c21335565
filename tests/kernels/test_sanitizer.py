"""NVIDIA's compute-sanitizer over the tests of this folder: no kernel reads or writes what is not its own, or races."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
TESTS = ["test_rows.py", "test_kv_write.py", "test_quantized.py", "test_verify.py", "test_sampling.py"]
TESTS += [
    "test_attention_paged.py",
    "test_attention_prefill.py",
    "test_attention_compact.py",
    "test_attention_quest.py",
]


def command(tool: str) -> list[str]:
    sanitizer = shutil.which("compute-sanitizer") or "compute-sanitizer"
    checked = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(str(FOLDER / t) for t in TESTS)]
    return [sanitizer, "--tool", tool, "--error-exitcode", "9", "--target-processes", "application-only", *checked]


@pytest.mark.gpu
@pytest.mark.timeout(3600)
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="needs compute-sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_the_sanitizer_finds_nothing(tool: str) -> None:
    # Torch's own allocator would hide what goes beyond a tensor in memory that it holds for others.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command(tool), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
