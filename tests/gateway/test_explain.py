"""`trimtab explain`: the stages' own words and a diff, without an upstream, a ledger or a limit being touched."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.gateway import cli
from trimtab.gateway.commands.diff import folded, paired, pieces

ROWS = [{"id": n, "name": f"row {n}", "price": 1.50} for n in range(60)]
CALL = {"id": "c1", "type": "function", "function": {"name": "rows", "arguments": "{}"}}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "List the rows."},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": json.dumps(ROWS, indent=4)},
]
ASKED = {"model": "auto", "messages": TURNS}


def config(**compress: Any) -> dict[str, Any]:
    dead = {"backend": "openai", "base_url": "http://127.0.0.1:9/v1", "price": {"input": 2, "output": 8}}
    return {
        "models": {"small": {"backend": "fake"}, "large": dead},
        "routes": {"auto": {"small": "small", "large": "large"}},
        "tenants": {
            "acme": {"keys": ["sha256:" + "a" * 64], "limits": {"usd_per_day": 1}, "policy": {"compress": compress}},
            "zenith": {"keys": ["sha256:" + "b" * 64], "policy": {"compress": {"lossless": False}}},
        },
    }


class Desk:
    """A folder with a configuration and a request, and a shell to explain them in."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.write("c.yaml", yaml.safe_dump({**config(), "ledger": {"path": str(folder / "ledger.db")}}))
        self.write("r.json", json.dumps(ASKED))

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return str(self.folder / name)

    def run(self, *words: str, request: str = "r.json") -> tuple[int, str, str]:
        status = cli.main(["explain", str(self.folder / request), "-c", str(self.folder / "c.yaml"), *words])
        captured = self._capsys.readouterr()
        return status, captured.out, captured.err


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return Desk(tmp_path, capsys)


def test_it_tells_what_every_stage_would_do(desk: Desk) -> None:
    status, out, err = desk.run("--tenant", "acme")
    assert (status, err) == (0, "")
    stages = ["admit", "recall", "prune", "compress", "plan", "route"]
    told = [line.split()[0] for line in out.splitlines() if line and line.split()[0] in stages]
    assert told == stages
    assert "would reserve" in out
    assert "compacted" in out
    assert "messages[3]: tool c1" in out
    assert "saves 0.00" in out
    assert "You are terse" not in out, "what stays as it is is not shown"
    assert not (desk.folder / "ledger.db").exists()


def test_another_tenants_policy_gives_another_story(desk: Desk) -> None:
    status, out, _ = desk.run("-t", "zenith")
    assert status == 0
    assert "compress  off: the tenant's policy" in out
    assert "byte for byte" in out


def test_json_holds_the_same_and_the_request_as_it_would_go(desk: Desk) -> None:
    status, out, _ = desk.run("--tenant", "acme", "--json")
    told = json.loads(out)
    assert status == 0
    assert told["tokens_after"] < told["tokens_before"]
    assert told["saved_usd"] > 0
    assert [line["stage"] for line in told["lines"]] == ["admit", "recall", "prune", "compress", "plan", "route"]
    assert json.loads(told["request"]["messages"][3]["content"]) == ROWS
    assert told["request"]["messages"][:3] == TURNS[:3]
    assert told["targets"] == ["large", "small"]


QUESTION = {"model": "auto", "temperature": 0, "messages": [{"role": "user", "content": "Why do ships have keels?"}]}


@pytest.mark.parametrize(
    ("policy", "fields", "did", "reason"),
    [
        ({}, {}, "would look", "for a repeat; else the answer is new, and kept for 3,600 s"),
        ({}, {"cache": {"ttl": 5}}, "would look", "for a repeat; else the answer is new, and kept for 5 s"),
        ({}, {"cache": {"no-store": True}}, "would look", "for a repeat; else the answer is new, and not kept"),
        ({}, {"cache": {"no-cache": True}}, "bypass", "the caller asked for a new answer, and kept for 3,600 s"),
        ({}, {"cache": {"use-cache": False}}, "bypass", "the caller asked for it"),
        ({}, {"temperature": 1}, "bypass", "not deterministic: temperature is not 0"),
        ({"exact": False}, {}, "off", "the policy has it off"),
        ({"semantic": {"enabled": True}}, {}, "would look", "for a repeat, or another wording; else"),
        (
            {"semantic": {"enabled": True}, "exact": False},
            {},
            "would look",
            "for another wording (no repeat: the policy has it off); else",
        ),
        (
            {"semantic": {"enabled": True}},
            {"n": 2},
            "would look",
            "for a repeat (no other wording: several choices or log probabilities); else",
        ),
        ({"semantic": {"enabled": True}}, {"temperature": 1}, "bypass", "not deterministic: temperature is not 0; and"),
    ],
)
def test_what_the_cache_would_do(
    desk: Desk, policy: dict[str, Any], fields: dict[str, Any], did: str, reason: str
) -> None:
    written = config()
    written["tenants"]["zenith"]["policy"] = {"cache": policy}
    desk.write("c.yaml", yaml.safe_dump(written))
    desk.write("q.json", json.dumps({**QUESTION, **fields}))
    status, out, _ = desk.run("-t", "zenith", "--json", request="q.json")
    told = json.loads(out)
    assert status == 0
    [line] = [line for line in told["lines"] if line["stage"] == "recall"]
    assert line["did"] == did
    assert line["reason"].startswith(reason)
    assert any("kept" in note or "keeps" in note for note in told["notes"]) == (did != "off")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"model": "auto", "prompt": "once upon"}, "completions"),
        ({"model": "auto", "input": "hello"}, "chat"),
        ({"model": "auto", "system": "s", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}, "chat"),
    ],
)
def test_other_protocols_are_seen_from_their_fields(desk: Desk, body: dict[str, Any], kind: str) -> None:
    desk.write("o.json", json.dumps(body))
    status, out, _ = desk.run("--tenant", "acme", "--json", request="o.json")
    assert status == 0
    assert json.loads(out)["kind"] == kind


def test_standard_input_is_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(ASKED).encode())))
    status = cli.main(["explain", "-", "-c", str(desk.folder / "c.yaml"), "-t", "acme"])
    assert status == 0


@pytest.mark.parametrize(
    ("words", "body", "status", "said"),
    [
        (["--tenant", "nobody"], None, 2, "there is no tenant 'nobody'; there are: acme, zenith"),
        ([], None, 2, "say which with --tenant: acme, zenith"),
        (["-t", "acme"], "{", 1, "not a JSON object"),
        (["-t", "acme"], "[]", 1, "not a JSON object"),
        (["-t", "acme"], '{"messages": []}', 1, "provide a 'model'"),
        (["-t", "acme"], '{"model": "nothing", "messages": []}', 1, "this gateway serves: auto, large, small"),
        (["-t", "acme"], '{"model": "auto"}', 1, "neither 'messages' nor 'prompt' nor 'input'"),
        (["-t", "acme"], '{"model": "auto", "messages": [], "trimtab": {"compress": 1}}', 1, "trimtab.compress"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    desk: Desk, words: list[str], body: str | None, status: int, said: str
) -> None:
    if body is not None:
        desk.write("r.json", body)
    got, out, err = desk.run(*words)
    assert (got, out) == (status, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_missing_file_and_a_wrong_configuration(desk: Desk) -> None:
    status, _, err = desk.run("-t", "acme", request="none.json")
    assert status == 1
    assert "No such file" in err
    desk.write("c.yaml", "models: {m: {backend: fake}}\ntenant: {}\n")
    status, _, err = desk.run("-t", "acme")
    assert status == 1
    assert "did you mean 'tenants'" in err


def test_a_wrong_command_line_is_2(desk: Desk) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain"])
    assert ended.value.code == 2


def test_colours_only_where_they_are_wanted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def output(**environ: str) -> str:
        with monkeypatch.context() as patched:
            for name in ("NO_COLOR", "FORCE_COLOR"):
                patched.delenv(name, raising=False)
            patched.setenv("TERM", "xterm")
            for name, value in environ.items():
                patched.setenv(name, value)
            status, out, _ = desk.run("-t", "acme", "--full")
        assert status == 0
        return out

    assert "\x1b[" not in output()
    assert "[-" in output()
    assert "\x1b[41m" in output(FORCE_COLOR="1")
    plain = output(FORCE_COLOR="1", NO_COLOR="1")  # a terminal whose owner wants no colours
    assert "\x1b[41m" not in plain
    assert "[-" in plain  # something has to say what went


def test_space_that_went_is_told_in_a_word(desk: Desk) -> None:
    _, out, _ = desk.run("-t", "acme")
    assert "characters of space are gone; it reads now: [{" in out
    assert "[-" not in out


def test_a_request_cannot_steer_the_terminal(desk: Desk) -> None:
    rows = [{**row, "name": "\x1b[2J [bold]markup[/] \u202e"} for row in ROWS]
    content = json.dumps(rows, indent=4, ensure_ascii=False)
    turns = [*TURNS[:3], {**TURNS[3], "content": content, "tool_call_id": "c1\x1b[2J"}]
    desk.write("r.json", json.dumps({**ASKED, "messages": turns}))
    status, out, _ = desk.run("-t", "acme", "--full")
    assert status == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "tool c1\\x1b[2J" in out
    desk.write("r.json", json.dumps({**ASKED, "model": "\x1b[2J"}))
    _, _, err = desk.run("-t", "acme")
    assert "\x1b" not in err


@pytest.mark.parametrize("words", [(), ("--json",), ("--full",)])
def test_half_a_surrogate_pair_is_told_as_an_escape(desk: Desk, words: tuple[str, ...]) -> None:
    turns = [*TURNS, {"role": "user", "content": "cut \ud83d"}]
    tools = [{"type": "function", "function": {"name": f"f{n}", "description": "\ude00"}} for n in range(40)]
    desk.write("half.json", json.dumps({**ASKED, "messages": turns, "tools": tools, "x\ud83d": 1}))
    desk.write("half_tools.json", json.dumps({**ASKED, "tools": tools}, indent=1))
    for name in ("half.json", "half_tools.json"):
        status, out, err = desk.run("--tenant", "acme", *words, request=name)
        assert (status, err) == (0, "")
        out.encode()
        assert "--json" not in words or json.loads(out)["request"]["tools"] == tools


def test_limits_that_could_never_be_met_are_told(desk: Desk) -> None:
    desk.write("r.json", json.dumps({**ASKED, "max_tokens": 10_000_000}))
    status, out, _ = desk.run("-t", "acme")
    assert status == 0
    assert "would be refused" in out


# The diff.

WORDS = st.text("ab \n.é中", max_size=60)


@given(WORDS, WORDS)
def test_a_diff_holds_both_texts(before: str, after: str) -> None:
    found = pieces(before, after)
    assert "".join(p.text for p in found if p.op != "new") == before
    assert "".join(p.text for p in found if p.op != "gone") == after


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["a ", "\n", "x", "{ ", "é"]), st.integers(20_000, 60_000), st.integers(20_000, 60_000))
def test_a_diff_of_anything_long_ends(unit: str, n: int, m: int) -> None:
    found = pieces(unit * n + "b", "c" + unit * m)
    assert "".join(p.text for p in found if p.op != "new") == unit * n + "b"


def test_long_runs_are_folded_and_counted() -> None:
    text = "word " * 1000
    found = folded(pieces(text + "old " + text, text + "new " + text))
    assert [(p.op, p.text) for p in found if p.op in ("gone", "new")] == [("gone", "old"), ("new", "new")]
    assert sum(len(p.text) for p in found) < 300
    assert any("unchanged characters" in p.text for p in found)


def test_sentences_that_went_are_shown_whole() -> None:
    before, after = "It stood. Bread is praised here. Snow falls. And then?", "It stood. [...] And then?"
    found = pieces(before, after)
    assert [(p.op, p.text) for p in found] == [
        ("same", "It stood. "),
        ("gone", "Bread is praised here. Snow falls."),
        ("new", "[...]"),
        ("same", " And then?"),
    ]


def test_many_changes_are_counted() -> None:
    before = " ".join(f"keep{n} drop{n}" for n in range(50))
    found = folded(pieces(before, " ".join(f"keep{n}" for n in range(50))))
    assert found[-1].text == " … 38 more places …"


def test_what_was_dropped_is_the_oldest() -> None:
    before, after = [b"s", b"1", b"2", b"3", b"4"], [b"s", b"sum 3", b"4"]
    assert paired(before, after) == [(0, 0), (1, None), (2, None), (3, 1), (4, 2)]
    assert paired(after, before) == [(0, 0), (None, 1), (None, 2), (1, 3), (2, 4)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_full_disk_is_one_line_and_not_a_success(desk: Desk, form: list[str]) -> None:
    start = "import sys; from trimtab.gateway.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "explain", "r.json", "-c", "c.yaml", "-t", "acme", *form]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=desk.folder)
    assert (done.returncode, done.stderr) == (
        1,
        "trimtab: cannot write: No space left on device; make room, or write elsewhere\n",
    )
