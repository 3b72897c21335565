"""A machine without llvmlite, or with one that cannot be loaded, computes as if there were none."""

import subprocess
import sys

from trimtab.kernels import switch

HIDDEN = """
import sys
sys.modules["llvmlite"] = None
from pathlib import Path
import torch
from trimtab.backends.engine.attention import Sight
from trimtab.backends.engine.batch import Batch, Rows
from trimtab.backends.engine.checkpoint import open_checkpoint
from trimtab.backends.engine.memory import Memory
from trimtab.backends.engine.model import Model
from trimtab.backends.engine.request import Sampling
from trimtab.backends.engine.sample import Law, draw
from trimtab.kernels.switch import native

device, sight = torch.device("cpu"), Sight()
assert not native(device)
for compute in ("int8", "float32"):
    model = Model(open_checkpoint(Path(sys.argv[1])), compute)
    memory = Memory(model.shape, 4, model.kept, device)
    batch = Batch([Rows([1, 2, 3], 0, [1], [2])], memory, model.shape.heads, sight, model.tiles)
    logits = model.forward(batch, memory)
    assert logits.isfinite().all()
    print(draw(logits, [Law(Sampling(temperature=1.0, seed=3))])[0])
"""


def test_a_model_is_loaded_and_answers(tiny):
    done = subprocess.run([sys.executable, "-c", HIDDEN, str(tiny)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2


def test_a_library_that_cannot_be_loaded_is_said(monkeypatch, caplog):
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "trimtab.kernels.native", None)
    monkeypatch.delattr("trimtab.kernels.native", raising=False)
    assert not switch._vectors.__wrapped__()
    assert "without its own functions" in caplog.text
