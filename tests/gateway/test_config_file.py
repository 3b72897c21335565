"""Files as users write them: every fault named with its line, all at once, and no secret repeated."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.registry import MissingExtra
from trimtab.gateway.config_file import ConfigError, Report, check_file, check_text, load_config
from trimtab.gateway.config_tree import known_keys
from trimtab.gateway.keys import hash_key

EXAMPLES = Path(__file__).parents[2] / "examples"
ENVIRON = {
    "HOME": "/home/x",
    "OPENAI_API_KEY": "sk-o",
    "ANTHROPIC_API_KEY": "sk-a",
    "ACME_BATCH_KEY": "tt-batch",
    "LITELLM_MASTER_KEY": "sk-a-real-master-key",
    "AZURE_API_BASE": "https://eu.example.com",
    "AZURE_API_KEY": "azure",
}

WHOLE: dict[str, Any] = {
    "server": {"port": 4001},
    "models": {
        "small": {"backend": "engine", "timeouts": {"idle_s": 3}},
        "large": {
            "backend": "openai",
            "base_url": "https://example.com/v1",
            "price": {"input": 1, "output": 2},
            "retries": {"attempts": 1},
            "limits": {"concurrent": 2},
        },
        "claude": {"backend": "litellm", "model": "anthropic/claude"},
        "play": {"backend": "fake", "script": {"text": "free"}},
    },
    "routes": {"auto": {"small": "small", "large": "large"}},
    "tenants": {
        "acme": {
            "keys": [hash_key("k"), {"hash": hash_key("l"), "name": "batch"}],
            "limits": {"concurrent": 4},
            "policy": {
                "cache": {"exact": True, "semantic": {"enabled": False}},
                "compress": {"lossless": True, "context": {"recall": 0.9}},
                "route": {"large_only": True},
                "output": {"plan": False},
            },
        }
    },
    "store": {"redis": "redis://localhost:6379/0"},
    "ledger": {"path": "/tmp/ledger.db"},
}


def sections(tree: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path of `tree` at which a section stands whose keys are ours to know."""
    found: list[tuple[str | int, ...]] = []
    if isinstance(tree, dict):
        names = path in (("models",), ("routes",), ("tenants",)) or path[-1:] == ("script",)
        found = [] if names else [path]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return found + [inner for step, value in items for inner in sections(value, (*path, step))]


def at(tree: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def check(text: str, environ: dict[str, str] | None = None) -> Report:
    return check_text(text, "t.yaml", ENVIRON if environ is None else environ)


# Names that cannot be keys of ours, each of which stands once in the file, so that a search finds its place.
UNKNOWN = st.lists(st.from_regex(r"zz[a-z_]{1,10}zz", fullmatch=True), min_size=1, max_size=4, unique=True)


@given(UNKNOWN, st.data(), st.sampled_from([False, None]))
def test_any_unknown_key_anywhere_is_named_with_its_place(
    keys: list[str], data: st.DataObject, flow: bool | None
) -> None:
    tree = copy.deepcopy(WHOLE)
    paths = data.draw(st.lists(st.sampled_from(sections(WHOLE)), min_size=len(keys), max_size=len(keys)))
    for key, path in zip(keys, paths, strict=True):
        at(tree, path)[key] = 1
    text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=flow, width=60)
    expected = set()
    for key, path in zip(keys, paths, strict=True):
        before = text[: text.index(f"{key}:")]
        expected.add(((*path, key), before.count("\n") + 1, len(before) - before.rfind("\n")))
    report = check(text)
    assert report.config is None
    found = [(e.path, e.mark.line, e.mark.column) for e in report.errors if e.mark is not None]
    assert set(found) == expected
    assert len(found) == len(keys)
    assert all(error.cause.startswith("unknown key") for error in report.errors)


@given(st.sampled_from([path for path in sections(WHOLE) if path]), st.data())
def test_a_slip_of_the_finger_is_answered_with_the_key_that_was_meant(path: tuple[str | int, ...], data: Any) -> None:
    section = at(WHOLE, path)
    backend = section.get("backend") if len(path) == 2 else None
    meant = data.draw(st.sampled_from([key for key in known_keys(path, backend) if len(key) > 4] or [""]))
    if not meant:
        return
    cut = data.draw(st.integers(1, len(meant) - 2))
    tree = copy.deepcopy(WHOLE)
    slip = meant[:cut] + meant[cut + 1 :]
    if slip in known_keys(path, backend):
        return
    at(tree, path)[slip] = 1
    [error] = [e for e in check(yaml.safe_dump(tree)).errors if e.path == (*path, slip)]
    assert repr(meant) in error.cause


def test_the_whole_tree_is_good() -> None:
    report = check(yaml.safe_dump(WHOLE))
    assert report.errors == ()
    assert report.config is not None


FAULTS = """\
server: {prot: 4000, port: "x", max_body_mb: true}
models:
  small: {backend: engin}
  large: {backend: openai, base_url: "ftp://u:s3cr3t@x", api_key: env:NOPE, prise: {input: 2}}
  claude: {model: anthropic/claude}
  bad name: {backend: fake}
  other: {backend: fake, fallbacks: [smal]}
routes:
  auto: {small: small, large: larg}
  other: {}
tenants:
  acme:
    keys: [sk-s3cr3t, {hash: "sha256:s3cr3t", modls: [a]}]
    limits: {requests_per_minute: 0}
    policy:
      route: {floor: 0.98, large_share: 0.3}
      compress: {context: {enabled: 1}}
  a/b: {}
store: {redis: "ftp://:s3cr3t@h"}
store: {}
"""
FOUND = """\
t.yaml:1:10: server.prot: unknown key; did you mean 'port'?
t.yaml:1:22: server.port: must be a whole number
t.yaml:1:33: server.max_body_mb: must be a whole number
t.yaml:3:11: models.small.backend: there is no such backend; did you mean 'engine'?
t.yaml:4:28: models.large.base_url: must be http:// or https:// with a host, such as https://api.openai.com/v1
t.yaml:4:58: models.large.api_key: the environment variable NOPE is not set
t.yaml:4:77: models.large.prise: unknown key; did you mean 'price'?
t.yaml:5:3: models.claude: needs `backend`, one of engine, openai, litellm, embed, fake
t.yaml:6:3: models.bad name: a name is 1 to 200 printable characters without spaces
t.yaml:7:38: models.other.fallbacks[0]: there is no model 'smal'; did you mean 'small'?
t.yaml:9:24: routes.auto.large: there is no model 'larg'; did you mean 'large'?
t.yaml:10:3: routes.other: needs `small`, `large` or both
t.yaml:13:12: tenants.acme.keys[0]: a key stands here in plain text; put its hash (`trimtab keys hash`), env:NAME or \
file:/path
t.yaml:13:24: tenants.acme.keys[1].hash: is not a SHA-256: `sha256:` is followed by 64 hexadecimal digits
t.yaml:13:47: tenants.acme.keys[1].modls: unknown key; did you mean 'models'?
t.yaml:14:14: tenants.acme.limits.requests_per_minute: must be at least 1
t.yaml:16:7: tenants.acme.policy.route: has several goals (floor, large_share); a route can follow one
t.yaml:17:28: tenants.acme.policy.compress.context.enabled: must be true or false
t.yaml:18:3: tenants.a/b: a tenant's name is 1 to 64 letters, digits, '_', '.' and '-', starting with a letter or digit
t.yaml:19:9: store.redis: must be redis://host:port/db, rediss://... or unix:///path
t.yaml:20:1: store: is written twice; the first one stands in line 19
"""


def test_all_faults_at_once() -> None:
    report = check(FAULTS)
    assert "\n".join(map(str, report.errors)) + "\n" == FOUND
    assert "s3cr3t" not in repr(report)


def test_what_stands_behind_a_fault_in_a_list_keeps_its_place() -> None:
    k = hash_key("k")
    text = (
        f"models: {{m: {{backend: fake}}}}\ntenants:\n  a: {{keys: ['{k}']}}\n  b:\n    keys:\n    - bad\n    - '{k}'\n"
    )
    assert [(e.path, e.mark and e.mark.line) for e in check(text).errors] == [
        (("tenants", "b", "keys", 0), 6),
        (("tenants", "b", "keys", 1), 7),
    ]


def test_a_fault_is_not_reported_again_as_what_follows_from_it() -> None:
    text = "models: {m: {backend: fake, x: 1}}\nroutes: {r: {small: m}}\ntenants: {a: {}, b: {keys: [plain]}}\n"
    assert [error.path for error in check(text).errors] == [("models", "m", "x"), ("tenants", "b", "keys", 0)]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("models: [a]", "t.yaml:1:1: models: must be a section"),
        ("models: {m: 3}", "t.yaml:1:10: models.m: must be a section"),
        ("tenants: {a: {keys: x}}", "t.yaml:1:15: tenants.a.keys: must be a list"),
        ("- a\n", "t.yaml: must hold `key: value` lines"),
        ("hello", "t.yaml: must hold `key: value` lines"),
        ("a: b: c", "t.yaml:1:5: is not valid YAML"),
        ("server: {port: 99999}", "t.yaml:1:10: server.port: must be at most 65535"),
        ("models: {m: {backend: litellm}}", "t.yaml:1:10: models.m.model: is missing"),
        ("tenants: {a: {models: []}}", "t.yaml:1:15: tenants.a.models: must not be empty"),
        ("tenants: {a: {keys: [{name: x}]}}", "t.yaml:1:22: tenants.a.keys[0]"),
        (
            "models: {m: {backend: litellm, model: x, params: {api_key: x}}}",
            "t.yaml:1:42: models.m.params: holds api_key",
        ),
    ],
)
def test_single_faults(text: str, start: str) -> None:
    [error] = check(text).errors
    assert str(error).startswith(start)


def test_an_empty_file_is_the_usual_configuration() -> None:
    for text in ("", "# nothing\n", "{}"):
        config = check(text, {"HOME": "/h"}).config
        assert config is not None
        assert list(config.models) == ["small"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"a: \xe9\n")
    (tmp_path / "huge").write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    for name, cause in {"gone": "No such file", "latin": "not UTF-8 text (byte 3)", "huge": "larger than"}.items():
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / name, {})
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert cause in str(caught.value)


def test_a_good_file_is_loaded_and_a_bad_one_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodels: {m: {backend: fake}}\n")  # some editors begin a file with a mark
    assert list(load_config(path, {}).models) == ["m"]
    path.write_text("x: 1\ny: 2\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert len(caught.value.problems) == len(str(caught.value).splitlines()) == 2


def test_the_process_environment_is_read_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("models: {m: {backend: openai, api_key: env:TRIMTAB_TEST_KEY}}")
    assert check_file(path).errors
    monkeypatch.setenv("TRIMTAB_TEST_KEY", "k")
    assert load_config(path).models["m"].backend_options()["api_key"] == "k"


# Warnings.


def warnings(text: str) -> list[str]:
    report = check(text)
    assert report.errors == ()
    return [str(warning).removeprefix("t.yaml:") for warning in report.warnings]


def test_what_is_switched_on_without_effect_is_named() -> None:
    found = warnings(
        "models: {m: {backend: fake, limits: {concurrent: 1}}}\n"
        "tenants:\n  a:\n    policy:\n"
        "      cache: {exact: false}\n"
        "      compress: {context: {enabled: false}}\n"
        "      route: {small_only: true}\n"
        "      output: {plan: true, cap: true, reasoning: true, shape: {style: token_budget}}\n"
    )
    assert not [line for line in found if any(word in line for word in ("exact", "context", "small_only", "shape"))]
    told = [line.split("output.")[1].split(":")[0] for line in found if "output." in line]
    assert told == ["cap", "reasoning"], "no model can do what these rest on"


TIERS = "{prose: {enabled: true, scorer: %s}, turns: {enabled: true, summarise: true}, context: {enabled: true}}"


def test_what_compression_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: object) -> None:
        raise MissingExtra("the embedder needs what is not installed: pip install 'trimtab[embed]'")

    monkeypatch.setattr("trimtab.gateway.config_notes.check_installed", missing)
    text = "models: {m: {backend: fake}, e: {backend: %s}}\ntenants: {a: {policy: {compress: %s}}}\n"
    found = warnings(text % ("fake", TIERS % "null"))
    assert [line.split(": ", 2)[1].removeprefix("tenants.a.policy.compress.") for line in found] == [
        "prose",
        "turns.summarise",
        "context",
    ]
    assert found[2].endswith("pip install 'trimtab[embed]'")
    found = warnings(text % ("engine", TIERS % "m"))
    assert "prose.scorer: has no effect: it names no model of `backend: engine`" in found[0]
    assert len(found) == 2
    monkeypatch.setattr("trimtab.gateway.config_notes.check_installed", lambda _: None)
    assert warnings(text % ("engine", TIERS % "e")) == []
    assert warnings(text % ("fake", "{}")) == []


def cached(cache: str, more: str = "", other: str = "{}") -> list[str]:
    """Warnings about tenant a's cache, without the line and where all of them are."""
    found = warnings(
        f"models: {{m: {{backend: fake}}}}\n{more}\ntenants:\n  a: {{policy: {{cache: {cache}}}}}\n"
        f"  b: {{keys: ['{hash_key('b')}'], policy: {{cache: {other}}}}}\n"
    )
    return [line.split(": ", 1)[1].removeprefix("tenants.a.policy.cache.") for line in found]


@pytest.mark.parametrize(
    ("cache", "more", "other", "said"),
    [
        ("{max_mb: 1}", "", "{}", "max_mb: holds few answers, and none that is larger than a quarter of it (256 KB)"),
        ("{semantic: {judge: m}}", "", "{}", "semantic.judge: has no effect"),
        ("{semantic: {enabled: true, audit: 0}}", "", "{}", "semantic.audit: nothing that is served is checked"),
        ("{ttl_s: 60, time_ttl_s: 90}", "", "{}", "time_ttl_s: has no effect"),
        ("{public: [faq]}", "", "{}", "public: 'faq' is shared with nobody"),
        ("{}", "server: {workers: 2}", "{}", "server.workers: each worker keeps answers of its own"),
        ("{}", "store: {secret: 'a secret'}", "{}", "store.secret: has no effect"),
    ],
)
def test_what_the_cache_will_not_do_is_named(cache: str, more: str, other: str, said: str) -> None:
    [found] = cached(cache, more, other)
    assert found.startswith(said)


@pytest.mark.parametrize(
    ("cache", "more", "other"),
    [
        ("{semantic: {enabled: true, judge: m}, ttl_s: 60}", "", "{}"),
        ("{public: [faq]}", "", "{public: [other, faq]}"),
        ("{exact: false, max_mb: 1}", "", "{}"),
        ("{}", "server: {workers: 2}\nstore: {redis: 'redis://h', secret: 'a secret'}", "{}"),
        ("{exact: false}", "server: {workers: 2}", "{exact: false}"),
    ],
)
def test_what_the_cache_does_needs_no_warning(cache: str, more: str, other: str) -> None:
    assert [line for line in cached(cache, more, other) if not line.startswith("tenants.b.")] == []


def test_a_semantic_cache_without_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingExtra("the comparison of questions needs what is not installed: pip install 'trimtab[embed]'")

    monkeypatch.setattr("trimtab.gateway.config_notes.check_pair_scorer", missing)
    [found] = cached("{semantic: {enabled: true}}")
    assert found.startswith("semantic: has no effect: the comparison of questions")


def test_a_judge_is_a_model_or_a_route() -> None:
    text = (
        "models: {large: {backend: fake, aliases: [big]}}\n"
        "tenants: {a: {policy: {cache: {semantic: {enabled: true, judge: %s}}}}}\n"
    )
    [error] = check(text % "larg").errors
    assert "semantic.judge: there is no model or route 'larg'; did you mean 'large'?" in str(error)
    assert check(text % "big").errors == ()


def test_defaults_are_no_reason_for_a_warning() -> None:
    assert warnings("models: {m: {backend: fake}}\ntenants: {a: {policy: {cache: {}}}}\n") == []


def test_secrets_in_plain_text_and_money_that_cannot_be_counted() -> None:
    found = warnings(
        "models:\n  m: {backend: openai, api_key: s3cr3t}\n  n: {backend: openai, api_key: env:OPENAI_API_KEY}\n"
        "  e: {backend: engine}\ntenants: {a: {limits: {usd_per_day: 4}}}\n"
    )
    assert [line.split(": ", 2)[:2] for line in found] == [
        ["2:24", "models.m.api_key"],
        ["5:24", "tenants.a.limits.usd_per_day"],
    ]
    assert found[1].endswith("no price: m, n")
    assert "s3cr3t" not in str(found)


def test_a_key_that_everybody_knows() -> None:
    [found] = warnings(f"models: {{m: {{backend: fake}}}}\ntenants: {{a: {{keys: ['{hash_key('sk-1234')}']}}}}\n")
    assert "everybody knows" in found


# The examples in the repository.


@pytest.mark.parametrize(("name", "kind"), [("trimtab.yaml", "trimtab"), ("litellm.yaml", "litellm")])
def test_the_examples_are_good(name: str, kind: str) -> None:
    report = check_file(EXAMPLES / name, ENVIRON)
    assert report.errors == ()
    assert report.kind == kind


def test_the_example_shows_every_key() -> None:
    text = (EXAMPLES / "trimtab.yaml").read_text()
    policy = ("tenants", "t", "policy")
    paths = [(), ("server",), ("models", "m", "timeouts"), ("tenants", "t"), ("tenants", "t", "limits"), policy]
    paths += [(*policy, room) for room in known_keys(policy)]
    assert [(*path, key) for path in paths for key in known_keys(path) if f"{key}:" not in text] == []
