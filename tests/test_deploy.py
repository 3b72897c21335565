"""The image and the compose file say what is so: every path, command, option and variable in them exists."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimtab.gateway import cli, cli_gateway
from trimtab.gateway.config import Config
from trimtab.gateway.config_file import load_config
from trimtab.gateway.listen import open_door

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
OURS = ("gateway", "gpu")
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
STATE = "/var/lib/trimtab"
FILES = ("trimtab.yaml", "hosted.yaml")
DEFAULTED = re.compile(r"\$\{(\w+):?-([^}]*)\}")


def filled(text: str) -> str:
    """`text` as compose reads it where no variable is set."""
    return DEFAULTED.sub(r"\2", text)


def seconds(duration: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


def deployed(name: str, tmp_path: Path) -> Path:
    """A copy of a file of deploy/ that finds the container's state folder here, with a key in it."""
    (tmp_path / "key").write_text("tt-" + os.urandom(24).hex() + "\n")
    copy = tmp_path / name
    copy.write_text((ROOT / "deploy" / name).read_text().replace(STATE, str(tmp_path)))
    return copy


def loaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-" + os.urandom(8).hex())
    return load_config(deployed(name, tmp_path))


def instructions(word: str) -> list[list[str]]:
    """The arguments of every such line of the Dockerfile, without its options."""
    lines = [line for line in DOCKERFILE.splitlines() if line.startswith(f"{word} ")]
    return [[part for part in shlex.split(line)[1:] if not part.startswith("--")] for line in lines]


@pytest.mark.parametrize("name", FILES)
def test_what_is_served_is_good(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-" + os.urandom(8).hex())
    assert cli.main(["check", str(deployed(name, tmp_path))]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", FILES)
def test_every_tenant_has_a_key_and_the_services_are_where_the_file_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = loaded(name, tmp_path, monkeypatch)
    assert not list(open_door(config, "0.0.0.0"))
    assert (config.server.host, config.server.port) == ("0.0.0.0", 4000)
    assert config.ledger.path == tmp_path / "ledger.db"
    assert config.store.redis is not None
    assert config.store.redis.get_secret_value() == "redis://valkey:6379/0"
    assert set(SERVICES["gateway"]["networks"]) & set(SERVICES["valkey"]["networks"])


def test_a_well_known_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = deployed("trimtab.yaml", tmp_path)
    (tmp_path / "key").write_text("sk-1234\n")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert cli.main(["serve", "-c", str(file), "--port", "0"]) == 1
    assert "strange" in capsys.readouterr().err


@pytest.mark.parametrize("service", OURS)
def test_the_command_is_one_of_ours(service: str) -> None:
    command = [filled(word) for word in SERVICES[service]["command"]]
    args = cli._parser().parse_args(command)
    assert args.run is cli_gateway._serve
    assert (ROOT / "deploy" / args.config.relative_to("/etc/trimtab")).is_file()
    script = SERVICES[service]["entrypoint"][-1]
    assert (ROOT / "deploy" / Path(script).relative_to("/etc/trimtab")).is_file()


def test_the_image_starts_the_console_script() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert instructions("ENTRYPOINT") == [["[trimtab]"]]
    assert "trimtab" in project["scripts"]
    (command,) = re.findall(r"^CMD \[(.*)\]$", DOCKERFILE, re.MULTILINE)
    cli._parser().parse_args([word.strip(' "') for word in command.split(",")])
    extras = {filled(str(SERVICES[name]["build"]["args"]["EXTRAS"]).replace("-engine", ":-engine")) for name in OURS}
    assert extras == {"engine,embed", "gpu,embed"}
    assert {name for one in extras for name in one.split(",")} <= set(project["optional-dependencies"])


def test_the_image_copies_what_exists_and_the_build_sees_it() -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / name).exists() for name in let_in)
    rooms = {link.readlink().parts[-1] for link in (ROOT / "src/trimtab").iterdir() if link.is_symlink()}
    assert rooms | {"src", "pyproject.toml", "README.md", "LICENSE"} == set(let_in)
    for *sources, _target in instructions("COPY"):
        assert all(source in (".", "/opt/trimtab") or source in let_in for source in sources), sources


def test_the_image_serves_as_nobody_in_particular() -> None:
    (user,) = instructions("USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user[0])
    assert instructions("STOPSIGNAL") == [["SIGTERM"]]
    assert "PYTHONSAFEPATH=1" in DOCKERFILE
    for folder in (STATE, "/var/cache/trimtab"):
        assert re.search(rf"install -d .*{folder}", DOCKERFILE), "a new volume would belong to root"


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1)])
def test_the_health_check_tells_ready_from_not(status: int, expected: int) -> None:
    (line,) = re.findall(r'CMD \["python3", "-c", "(import http.client.*)"\]', DOCKERFILE)
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        here = line.replace(" 4000,", f" {server.server_port},")
        done = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, check=False)
        server.shutdown()
        thread.join()
    assert (done.returncode, asked) == (expected, ["/health/readiness"]), done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_every_mount_exists(service: str) -> None:
    known = yaml.safe_load(COMPOSE)["volumes"]
    for volume in SERVICES[service]["volumes"]:
        source, target, *_ = volume.split(":")
        assert (ROOT / source).exists() if source.startswith(".") else source in known
        assert target.startswith("/")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_do_little(service: str) -> None:
    given = SERVICES[service]
    assert given["read_only"] is True
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert given["mem_limit"]
    assert given["pids_limit"]
    assert not {"privileged", "cap_add", "network_mode"} & set(given)
    for port in given.get("ports", []):
        assert filled(port).startswith("127.0.0.1:"), "published beyond this machine without being asked to"


@pytest.mark.parametrize("service", OURS)
@pytest.mark.parametrize("name", FILES)
def test_compose_waits_for_the_drain(service: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drain = loaded(name, tmp_path, monkeypatch).server.drain_s
    assert seconds(SERVICES[service]["stop_grace_period"]) >= drain + 10


def test_services_wait_for_health_that_is_checked() -> None:
    for service in OURS:
        for other, how in SERVICES[service]["depends_on"].items():
            assert how["condition"] == "service_healthy"
            assert "test" in SERVICES[other]["healthcheck"]


def test_the_store_keeps_what_limits_need() -> None:
    words = shlex.split(SERVICES["valkey"]["command"])
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--appendonly"] == "yes"
    assert options["--protected-mode"] == "no"
    assert "ports" not in SERVICES["valkey"]
    network = yaml.safe_load(COMPOSE)["networks"][SERVICES["valkey"]["networks"][0]]
    assert network == {"internal": True}


def test_every_variable_is_listed_and_every_listed_one_is_used() -> None:
    listed = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    used = {name for name, _ in DEFAULTED.findall(COMPOSE)}
    for service in OURS:
        bare = {**SERVICES[service]["environment"], **SERVICES[service]["build"]["args"]}
        used |= {name for name, value in bare.items() if value is None}
    assert listed == used


def test_every_variable_handed_to_the_container_is_read_there() -> None:
    code = "".join(
        path.read_text() for room in ("gateway", "backends", "deploy") for path in (ROOT / room).rglob("*.py")
    )
    shown = (ROOT / "examples/trimtab.yaml").read_text()
    for name in SERVICES["gateway"]["environment"]:
        assert f'"{name}"' in code or f"env:{name}" in shown, name


def test_defaults_in_the_example_are_the_defaults() -> None:
    given = dict(DEFAULTED.findall(COMPOSE))
    for name, value in re.findall(r"^#([A-Z_]+)=(.+)$", (ROOT / ".env.example").read_text(), re.MULTILINE):
        if name in given:
            assert given[name] == value, name


def test_no_secret_is_written_down() -> None:
    for name in (
        "docker-compose.yml",
        ".env.example",
        "Dockerfile",
        *(f"deploy/{p.name}" for p in (ROOT / "deploy").glob("*.*")),
    ):
        text = (ROOT / name).read_text()
        assert not re.search(r"\b(sk|tt)-[A-Za-z0-9]{4,}", text), name
        assert not re.search(r"(KEY|PASSWORD|TOKEN|SECRET)[=:][ \t]*[A-Za-z0-9]", text), name


def test_prometheus_asks_for_what_the_gateway_has() -> None:
    (job,) = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert host in SERVICES
    assert port == "4000"
    assert f'"{job["metrics_path"]}"' in (ROOT / "gateway/app.py").read_text()


class TestStart:
    @pytest.fixture
    def start(self) -> Any:
        spec = importlib.util.spec_from_file_location("deploy_start", ROOT / "deploy/start.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def test_a_key_is_made_once_and_not_shown(self, start: Any, tmp_path: Path) -> None:
        key = tmp_path / "key"
        said = start.put_key(key, "")
        made = key.read_text()
        assert made.startswith("tt-")
        assert len(made) > 40
        assert made.strip() not in said
        assert key.stat().st_mode & 0o777 == 0o600
        start.put_key(key, "")
        assert key.read_text() == made

    def test_no_two_installations_share_one(self, start: Any, tmp_path: Path) -> None:
        start.put_key(tmp_path / "a", "")
        start.put_key(tmp_path / "b", "")
        assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()

    def test_a_given_key_holds_while_it_is_given(self, start: Any, tmp_path: Path) -> None:
        key = tmp_path / "key"
        start.put_key(key, "")
        made = key.read_text()
        said = start.put_key(key, "tt-given")
        assert key.read_text() == "tt-given\n"
        assert "tt-given" not in said
        start.put_key(key, "")
        assert key.read_text() == made

    def test_it_becomes_trimtab_without_the_key_in_its_environment(self, tmp_path: Path) -> None:
        bin_ = tmp_path / "bin"
        bin_.mkdir()
        (bin_ / "trimtab").write_text('#!/bin/sh\necho "$$ [$TRIMTAB_KEY] $*"\n')
        (bin_ / "trimtab").chmod(0o755)
        environ = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "TRIMTAB_KEY": "tt-given"}
        started = subprocess.Popen(
            [sys.executable, str(ROOT / "deploy/start.py"), "serve", "--port", "0"],
            env={**environ, "TRIMTAB_KEY_FILE": str(tmp_path / "key")},
            stdout=subprocess.PIPE,
            text=True,
        )
        out, _ = started.communicate(timeout=60)
        assert out.splitlines()[-1] == f"{started.pid} [] serve --port 0"

    def test_a_folder_it_cannot_write_is_named(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing" / "key"
        environ = {**os.environ, "TRIMTAB_KEY_FILE": str(missing)}
        script = [sys.executable, str(ROOT / "deploy/start.py"), "serve"]
        done = subprocess.run(script, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert str(missing) in done.stderr


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0,
    reason="there is no `docker compose` here",
)
@pytest.mark.parametrize("profiles", [[], ["--profile", "gpu"], ["--profile", "monitoring"]])
def test_compose_takes_the_file(profiles: list[str]) -> None:
    command = ["docker", "compose", "--file", str(ROOT / "docker-compose.yml"), *profiles, "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "compose warns"
