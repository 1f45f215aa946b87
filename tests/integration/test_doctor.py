"""``goproxy-vm doctor`` on a healthy set-up and on broken ones, through the real command line."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm import __version__, cli
from goproxy_vm.admin.status import InForce
from goproxy_vm.config import File, Shown, load
from goproxy_vm.config.address import Address
from goproxy_vm.config.sumdb import SumdbSpec
from goproxy_vm.config.token import TOKEN_NAME
from goproxy_vm.doctor.check import TITLES
from tests.fakes.ports import closed_port
from tests.fakes.sumdb import FakeSumdb, Signer
from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.conftest import Host, Serve

NAME = "127.0.0.1:1/log"
"""A database whose own host refuses connections at once: its answers come through the upstream."""
RECORDS = 7
SECRET = "hunter2-hunter2-hunter2"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what a test sets."""
    for name in list(os.environ):
        if name.startswith(("GOPROXY_VM_", "XDG_", "CACHE_DIRECTORY")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@contextmanager
def listening() -> Iterator[int]:
    """A port on which something else than a server of ours listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


@dataclass
class Examined:
    """What one run printed, and its exit status."""

    status: int
    checks: dict[str, dict[str, str]]
    healthy: bool

    def states(self) -> dict[str, str]:
        """Status by id."""
        return {name: check["status"] for name, check in self.checks.items()}

    def only(self, name: str) -> tuple[str, str, str]:
        """Status, found and remedy of the one check that is neither ok nor skipped."""
        assert [each for each, status in self.states().items() if status in ("failed", "warning")] == [name]
        check = self.checks[name]
        assert (self.status, self.healthy) == ((1, False) if check["status"] == "failed" else (0, True))
        assert check["remedy"]
        return check["status"], check["found"], check["remedy"]


@dataclass
class Setup:
    """A set-up that is healthy until a test changes it; ``settings`` are the keys of its file."""

    file: Path
    upstream: FakeUpstream
    database: FakeSumdb
    capsys: pytest.CaptureFixture[str]
    settings: dict[str, str] = field(default_factory=dict)
    ahead: float = 0.0
    """Seconds by which the upstream's clock is ahead."""

    def carry(self) -> None:
        """Have the upstream answer with dates, and carry the database."""
        prefix = f"/sumdb/{NAME}/"

        def answer(path: str) -> Reply:
            headers = {"Date": formatdate(time.time() + self.ahead, usegmt=True)}
            if path.startswith(prefix):
                status, body = self.database.answer(path.removeprefix(prefix))
                return Reply(body, status, headers)
            body = self.upstream.files.get(path)
            return Reply(b"", 404, headers) if body is None else Reply(body, 200, headers)

        self.upstream.on("*", answer)

    def write(self) -> None:
        """Write the file of settings."""
        self.file.write_text("".join(f"{key} = {json.dumps(v)}\n" for key, v in self.settings.items()))

    async def text(self) -> tuple[int, str]:
        """Exit status and text."""
        self.write()
        status = await asyncio.to_thread(cli.main, ["doctor", "--config", str(self.file)])
        out, err = self.capsys.readouterr()
        assert err == ""
        assert SECRET not in out
        return status, out

    async def examine(self, *flags: str) -> Examined:
        """Run it with ``--json``."""
        self.write()
        argv = ["doctor", "--json", "--config", str(self.file), *flags]
        status = await asyncio.to_thread(cli.main, argv)
        out, err = self.capsys.readouterr()
        assert err == ""
        assert SECRET not in out
        return examined(status, json.loads(out))


def examined(status: int, answer: dict[str, Any]) -> Examined:
    checks = {check["id"]: check for check in answer["checks"]}
    assert list(checks) == list(TITLES)
    return Examined(status, checks, answer["healthy"])


@pytest.fixture
def setup(upstream: FakeUpstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Setup:
    upstream.add_module("golang.org/x/text", "v0.3.0")
    made = Setup(tmp_path / "goproxy-vm.toml", upstream, FakeSumdb.make(RECORDS, name=NAME), capsys)
    made.settings = {
        "listen": f"0.0.0.0:{closed_port()}",
        "admin_listen": f"127.0.0.1:{closed_port()}",
        "cache_dir": str(tmp_path / "cache"),
        "upstream": upstream.url,
        "sumdb": str(made.database.key),
        # What is free on the machine that runs the tests is not their subject.
        "min_free": "1MiB",
        "max_size": "1MiB",
        "max_client_connections": "1",
        "max_misses": "1",
    }
    made.carry()
    return made


Running = Callable[[], Awaitable[Host]]


@pytest.fixture
def run(setup: Setup, serve: Serve) -> Running:
    """Start the set-up's server, and put its addresses into the file."""

    async def start() -> Host:
        host = await serve(
            setup.upstream,
            listen=(Address("0.0.0.0", 0),),
            sumdb=SumdbSpec(NAME, str(setup.database.key)),
            cache_dir=Path(setup.settings["cache_dir"]),
        )
        port = host.server.url.rpartition(":")[2]
        setup.settings |= {
            "listen": f"0.0.0.0:{port}",
            "admin_listen": host.server.admin_url.removeprefix("http://"),
        }
        setup.write()
        host.server.in_force = InForce(load({}, os.environ, File(setup.file, "flag --config")).origins)
        return host

    return start


async def test_healthy_with_a_running_server(setup: Setup, run: Running) -> None:
    host = await run()
    before = sorted(Path(setup.settings["cache_dir"]).rglob("*"))
    found = await setup.examine()
    assert (found.status, found.healthy) == (0, True)
    assert found.states() == dict.fromkeys(TITLES, "ok")
    said = {name: check["found"] for name, check in found.checks.items()}
    assert said["configuration"] == f"valid; from {setup.file}"
    process = f"process {os.getpid()}"
    assert said["listener"] == f"{setup.settings['listen']} is served by {process}"
    assert said["admin_listener"].endswith(f" is served by {process}; only this host reaches it")
    assert f"{setup.upstream.name}: 200 in " in said["upstreams"]
    assert said["database"] == f"{NAME} has signed a log of 7 records, says {setup.upstream.name}"
    assert said["clock"] == "within 2 s of 127.0.0.1"
    assert (
        said["server"] == f"{process} at {setup.settings['admin_listen']} says ready, version {__version__}"
    )
    assert said["token"].endswith(f"{TOKEN_NAME}; accepted by the running server")
    assert all(check["remedy"] == "" for check in found.checks.values())
    assert sorted(Path(setup.settings["cache_dir"]).rglob("*")) == before
    assert (await host.get("/golang.org/x/text/@v/v0.3.0.info")).status == 200


async def test_healthy_before_the_first_start(setup: Setup) -> None:
    status, out = await setup.text()
    assert status == 0
    lines = out.splitlines()
    assert [line[:27].split("  ")[0].strip() for line in lines[:-1]] == ["ok"] * 13 + ["skipped", "ok"]
    assert [line[9:26].strip() for line in lines[:-1]] == list(TITLES.values())
    assert "does not exist yet and can be made in" in lines[1]
    assert "none yet; the first start makes one" in lines[14]
    assert lines[-1] == "healthy: 1 skipped"
    assert not Path(setup.settings["cache_dir"]).exists()


async def test_text_has_remedies_below(setup: Setup) -> None:
    setup.settings["admin_listen"] = f"0.0.0.0:{closed_port()}"
    status, out = await setup.text()
    assert status == 0
    lines = out.splitlines()
    where = next(n for n, line in enumerate(lines) if line.startswith("warning  Admin listener"))
    assert lines[where + 1].startswith(" " * 28 + "-> set admin_listen to 127.0.0.1:8081 or unix:")
    assert lines[-1] == "healthy: 1 warning, 1 skipped"


async def test_bad_key(setup: Setup) -> None:
    setup.settings["upstrem"] = "x"
    found = await setup.examine()
    status, said, remedy = found.only("configuration")
    assert status == "failed"
    assert said == f"upstrem: no such key (file {setup.file}); did you mean upstream?"
    assert "config check" in remedy
    assert set(found.states().values()) == {"failed", "skipped"}
    assert found.checks["token"]["found"] == "the configuration must be valid first"


async def test_bad_flag_value(setup: Setup) -> None:
    found = await setup.examine("--fresh", "x")
    assert found.only("configuration")[1].startswith('fresh: "x" (flag --fresh): expected')


async def test_unknown_flag_is_usage(setup: Setup) -> None:
    assert cli.main(["doctor", "--frsh", "1"]) == 2
    assert "did you mean --fresh?" in setup.capsys.readouterr().err


async def test_configuration_warns(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY_VM_PORT", "tcp://x")
    status, said, _ = (await setup.examine()).only("configuration")
    assert status == "warning"
    assert said.endswith("environment variable GOPROXY_VM_PORT is no setting and is ignored")


async def test_cache_dir_is_a_file(setup: Setup) -> None:
    Path(setup.settings["cache_dir"]).write_text("")
    found = await setup.examine()
    status, said, remedy = found.only("directory")
    assert (status, said) == ("failed", f"{setup.settings['cache_dir']} is not a directory")
    assert "cache_dir" in remedy
    assert found.checks["disk"]["found"] == "the cache directory must be usable first"


async def test_min_free_larger_than_the_disk(setup: Setup) -> None:
    setup.settings["min_free"] = "1000000000GiB"
    status, said, remedy = (await setup.examine()).only("disk")
    assert status == "failed"
    assert "min_free is " in said
    assert "lower min_free" in remedy


@pytest.mark.parametrize("key", ["listen", "admin_listen"])
async def test_port_taken_by_something_else(setup: Setup, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goproxy_vm.console.client.PROBE_SECONDS", 0.3)
    with listening() as port:
        setup.settings[key] = f"127.0.0.1:{port}"
        found = await setup.examine()
    status, said, remedy = found.only("listener" if key == "listen" else "admin_listener")
    assert (status, said) == ("failed", f"127.0.0.1:{port} is held by something other than goproxy-vm")
    assert f"sport = :{port}" in remedy
    assert f"set {key} to" in remedy


async def test_port_taken_by_another_server_of_ours(setup: Setup, run: Running) -> None:
    await run()
    setup.settings["cache_dir"] += "-other"
    found = await setup.examine()
    assert found.states()["listener"] == found.states()["admin_listener"] == "failed"
    assert "another goproxy-vm server" in found.checks["listener"]["found"]
    assert "--config" in found.checks["server"]["remedy"]


async def test_loopback_is_out_of_reach_for_vms(setup: Setup) -> None:
    setup.settings["listen"] = f"127.0.0.1:{closed_port()},[::1]:0"
    status, said, remedy = (await setup.examine()).only("listener")
    assert status == "warning"
    assert said.endswith("only this host reaches it, no VM does")
    assert "set listen to 0.0.0.0:8080" in remedy


async def test_admin_on_every_address(setup: Setup) -> None:
    setup.settings["admin_listen"] = f"0.0.0.0:{closed_port()}"
    status, said, remedy = (await setup.examine()).only("admin_listener")
    assert status == "warning"
    assert said.endswith("it can be reached from other networks")
    assert "set admin_listen to 127.0.0.1:8081" in remedy


async def test_upstream_refuses_connections(setup: Setup) -> None:
    name = f"127.0.0.1:{closed_port()}"
    setup.settings |= {"upstream": f"http://user:{SECRET}@{name}", "sumdb": "off"}
    found = await setup.examine()
    status, said, remedy = found.only("upstreams")
    assert (status, said) == ("failed", f"{name}: cannot connect: Connection refused")
    assert "or name another upstream" in remedy
    assert found.checks["clock"]["status"] == "skipped"


async def test_one_of_two_upstreams_refuses(setup: Setup) -> None:
    name = f"127.0.0.1:{closed_port()}"
    setup.settings["upstream"] = f"http://user:{SECRET}@{name}|{setup.upstream.url}"
    status, said, _ = (await setup.examine()).only("upstreams")
    assert status == "warning"
    assert said.startswith(f"{name}: cannot connect: Connection refused; {setup.upstream.name}: 200 in ")
    setup.settings["upstream"] = f"http://{name},{setup.upstream.url}"
    status, _, remedy = (await setup.examine()).only("upstreams")
    assert status == "failed"
    assert f"write | instead of , behind {name}" in remedy


@pytest.mark.parametrize(
    ("answer", "status"),
    [(500, "failed"), (503, "failed"), (401, "failed"), (403, "ok"), (404, "ok"), (410, "ok")],
)
async def test_upstream_answers(setup: Setup, answer: int, status: str) -> None:
    setup.upstream.on("/golang.org/*", Reply(status=answer))
    check = (await setup.examine()).checks["upstreams"]
    assert (check["status"], check["found"]) == (status, f"{setup.upstream.name}: {answer} Whatever")
    assert bool(check["remedy"]) == (status == "failed")


async def test_offline_asks_nobody(setup: Setup) -> None:
    setup.settings["offline"] = "true"
    states = (await setup.examine()).states()
    assert {states[name] for name in ("upstreams", "database", "clock")} == {"skipped"}
    assert setup.upstream.requests == []


async def test_sumdb_with_a_wrong_key(setup: Setup) -> None:
    setup.settings["sumdb"] = str(Signer.make(NAME, bytes(32)).key)
    status, said, remedy = (await setup.examine()).only("database")
    assert status == "failed"
    assert f"{setup.upstream.name}: the signed note has no signature by {NAME}+" in said
    assert remedy.startswith(f"sumdb must hold the key of {NAME}")


async def test_database_out_of_reach(setup: Setup) -> None:
    setup.upstream.on("/sumdb/*", Reply(status=404))
    status, said, remedy = (await setup.examine()).only("database")
    assert status == "failed"
    assert said == f"{setup.upstream.name}: 404 Whatever; 127.0.0.1:1: cannot connect: Connection refused"
    assert "sumdb = '" in remedy


async def test_clock_off_by_hours(setup: Setup) -> None:
    setup.ahead = 3 * 3600 + 5
    status, said, remedy = (await setup.examine()).only("clock")
    assert (status, said) == ("warning", "this host's clock is 3h behind that of 127.0.0.1")
    assert "timedatectl" in remedy
    setup.ahead = -2 * 86400
    status, said, _ = (await setup.examine()).only("clock")
    assert status == "failed"
    assert "2d ahead of that of" in said


async def test_few_descriptors(setup: Setup) -> None:
    setup.settings["max_misses"] = "64"
    setup.write()
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "goproxy_vm", "doctor", "--json", "--config", str(setup.file)],
        capture_output=True,
        timeout=50,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)),
    )
    assert process.stderr == b""
    status, said, remedy = examined(process.returncode, json.loads(process.stdout)).only("descriptors")
    assert status == "failed"
    assert said.startswith(
        "a process started from here may open 200 files: 1 connections from one address, 16 in all; 512 "
    )
    assert "LimitNOFILE=65536" in remedy


async def test_wrong_token(setup: Setup, run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await run()
    monkeypatch.setenv("GOPROXY_VM_ADMIN_TOKEN", SECRET)
    found = await setup.examine()
    status, said, remedy = found.only("token")
    assert status == "failed"
    assert "does not take the token from admin_token: the server has another admin token" in said
    assert "admin_token" in remedy
    assert found.checks["server"]["found"].endswith("its version is unknown without the token")


async def test_degraded_server(setup: Setup, run: Running) -> None:
    host = await run()
    host.store.core.health.failed(OSError(28, "No space left on device"))
    status, said, remedy = (await setup.examine()).only("server")
    assert status == "warning"
    assert "degraded: the store cannot be written" in said
    assert "cache_dir" in remedy


async def test_another_version_runs(setup: Setup, run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await run()
    monkeypatch.setattr("goproxy_vm.doctor.running.__version__", "9.9.9")
    status, said, remedy = (await setup.examine()).only("server")
    assert status == "warning"
    assert said.endswith(f"version {__version__}, but 9.9.9 is installed")
    assert remedy.startswith("restart it")


async def test_server_listens_elsewhere(setup: Setup, run: Running) -> None:
    host = await run()
    # Asked about by a flag, or of a server that tells nothing, it is as it would be after a restart.
    elsewhere = f"0.0.0.0:{closed_port()}"
    found = await setup.examine("--listen", elsewhere)
    said = found.checks["configuration"]["found"]
    assert said.endswith(f', ["{elsewhere}"] here (flag --listen, which the checks use)')
    said = found.checks["listener"]["found"]
    assert said == f"{elsewhere} is free, though process {os.getpid()} serves the cache directory"
    host.server.in_force = InForce()
    setup.settings["admin_listen"] = f"127.0.0.1:{closed_port()}"
    found = await setup.examine()
    assert "does not tell its own settings" in found.checks["configuration"]["found"]
    said = found.checks["server"]["found"]
    assert f"process {os.getpid()} holds the cache directory, but does not answer" in said


async def test_the_running_server_is_judged_by_its_own_settings(setup: Setup, run: Running) -> None:
    """The file was changed since, or is another one: each difference is named, and nothing else is judged."""
    host = await run()
    setup.settings |= {
        "listen": f"0.0.0.0:{closed_port()}",
        "admin_listen": f"127.0.0.1:{closed_port()}",
        "upstream": f"http://u:{SECRET}@127.0.0.1:{closed_port()}",
        "offline": "true",
    }
    found = await setup.examine()
    status, said, remedy = found.only("configuration")
    assert status == "warning"
    assert f'upstream is "{setup.upstream.url}" there (file {setup.file}), "http://***@127' in said
    assert f"offline is false there (default), true here (file {setup.file})" in said
    assert said.count("; the running server has other settings: ") == 1
    assert "; listen is " in said or ": listen is " in said
    assert "; admin_listen is " in said
    assert "running server's settings; restart it" in remedy
    assert "200 in" in found.checks["upstreams"]["found"]
    assert host.server.admin_url.removeprefix("http://") in found.checks["server"]["found"]


async def test_the_ports_that_the_system_chose(setup: Setup, run: Running) -> None:
    host = await run()
    told = {"listen": Shown(["0.0.0.0:0"], "flag --listen"), "offline": Shown(False, "flag --no-offline")}
    host.server.in_force = InForce({**host.server.in_force.settings, **told})
    setup.settings |= {"listen": "0.0.0.0:0", "admin_listen": "127.0.0.1:0", "offline": "true"}
    found = await setup.examine()
    assert host.server.url.removeprefix("http://") in found.checks["listener"]["found"]
    assert host.server.admin_url.removeprefix("http://") in found.checks["server"]["found"]
    assert "200 in" in found.checks["upstreams"]["found"]


async def test_flags_of_the_server_are_no_mistake(setup: Setup, run: Running) -> None:
    host = await run()
    given = {"offline": Shown(True, "flag --offline"), "of_another_version": Shown(1, "flag --x")}
    host.server.in_force = InForce({**host.server.in_force.settings, **given})
    found = await setup.examine()
    assert (found.status, found.checks["configuration"]["status"]) == (0, "ok")
    said = "offline is true there (flag --offline), false here (default)"
    assert found.checks["configuration"]["found"].endswith(f"; the running server has other settings: {said}")
    assert found.checks["upstreams"]["found"] == "offline is set: nothing is asked"


async def test_passwords_and_proxies_of_the_server(
    setup: Setup, run: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await run()
    told = host.server.in_force.settings
    host.server.in_force = InForce({**told, "upstream": Shown("http://***@x.example", "default")})
    found = await setup.examine()
    assert found.checks["upstreams"]["status"] == found.checks["database"]["status"] == "skipped"
    assert "does not tell the passwords or files in its upstream" in found.checks["upstreams"]["found"]
    proxy = f"http://127.0.0.1:{closed_port()}"
    host.server.in_force = InForce(told, {"HTTP_PROXY": proxy})
    found = await setup.examine()
    assert f"HTTP_PROXY is {proxy} there, not set here" in found.checks["configuration"]["found"]
    host.server.in_force = InForce(told, {"HTTP_PROXY": "http://***@proxy.example:1"})
    found = await setup.examine()
    assert "in its HTTP_PROXY" in found.checks["upstreams"]["found"]


async def test_the_unit_alone_knows_where_the_cache_is(
    setup: Setup, run: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run()
    stock = setup.settings.pop("cache_dir")
    monkeypatch.setattr("goproxy_vm.doctor.elsewhere.STOCK", Path(stock))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    found = await setup.examine()
    status, said, remedy = found.only("configuration")
    mine = tmp_path / "mine" / "goproxy-vm"
    assert status == "warning"
    assert f"the running server says that its cache_dir is {stock}, here it is {mine}" in said
    assert f'cache_dir = "{stock}"' in remedy
    assert found.checks["directory"]["found"].startswith(stock)
    assert found.checks["server"]["found"].endswith(f"says ready, version {__version__}")
    assert found.checks["token"]["status"] == "ok"
    assert not mine.exists()


async def test_the_token_finds_a_server_of_another_directory(
    setup: Setup, run: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run()
    there = Path(setup.settings["cache_dir"])
    monkeypatch.setenv("GOPROXY_VM_ADMIN_TOKEN", (there / TOKEN_NAME).read_text().strip())
    setup.settings["cache_dir"] = str(tmp_path / "other")
    found = await setup.examine()
    assert found.checks["configuration"]["status"] == "warning"
    assert (
        f"its cache_dir is {there}, here it is {tmp_path / 'other'}" in found.checks["configuration"]["found"]
    )
    assert f"--cache-dir {there}" in found.checks["configuration"]["remedy"]
    assert found.checks["directory"]["found"].startswith(str(tmp_path / "other"))
