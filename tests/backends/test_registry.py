"""Backends by name: found late, and plainly missed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trimtab.backends.fake import FakeBackend
from trimtab.backends.registry import MissingExtra, UnknownBackend, create, names


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownBackend) as caught:
        create("opneai", {})
    assert all(name in str(caught.value) for name in names())


def test_options_go_to_the_backend():
    made = create("fake", {"script": {"text": "hello"}})
    assert isinstance(made, FakeBackend)
    assert made.script.text == "hello"


def test_an_unknown_option_is_the_backends_to_refuse():
    with pytest.raises(ValueError, match="txet"):
        create("fake", {"script": {"txet": "hello"}})


@pytest.mark.parametrize(("name", "module"), [("engine", "torch"), ("litellm", "litellm")])
def test_a_missing_extra_names_its_cure(name, module, tmp_path):
    # In a process of its own, where the module cannot be found however it is installed here.
    code = f"""
import sys
sys.modules[{module!r}] = None
from trimtab.backends.registry import MissingExtra, create
try:
    create({name!r}, {{}})
except MissingExtra as e:
    print(e)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert f"pip install 'trimtab[{name}]'" in done.stdout
    assert module in done.stdout


def test_naming_backends_loads_none():
    code = """
import sys
import trimtab.backends.registry as r
r.names()
r.create("fake", {})
assert not {"torch", "litellm", "aiohttp"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_extra_is_no_import_error():
    # An ImportError would be taken for a broken installation by whoever catches it.
    assert not issubclass(MissingExtra, ImportError)
