"""The doctor's look at upstreams, the checksum database and the clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path

import pytest

from goproxy_vm.config import Address, Loaded, Settings, SumdbSpec
from goproxy_vm.doctor.asking import Inquiry
from goproxy_vm.doctor.asking import Reply as Told
from goproxy_vm.doctor.check import Finding
from goproxy_vm.doctor.examine import examine
from goproxy_vm.doctor.network import check_clock, check_database, check_upstreams
from goproxy_vm.errors import StartError
from goproxy_vm.upstream.dates import clock_offset
from tests.fakes.sumdb import FakeSumdb, Signer
from tests.fakes.upstream import FakeUpstream, Reply

NOW = 1_700_000_000.0
NAME = "127.0.0.1:1/log"


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        fake.add_module("golang.org/x/text", "v0.3.0")
        yield fake


def carry(upstream: FakeUpstream, database: FakeSumdb, prefix: str = f"/sumdb/{NAME}/") -> None:
    def answer(path: str) -> Reply:
        status, body = database.answer(path.removeprefix(prefix))
        return Reply(body, status)

    upstream.on(f"{prefix}*", answer)


async def upstreams(text: str, tmp_path: Path, seconds: float = 5.0) -> Finding:
    settings = Settings(cache_dir=tmp_path, upstream=text)
    async with Inquiry(settings, seconds=seconds) as inquiry:
        return await check_upstreams(settings, inquiry)


async def database(text: str, spec: SumdbSpec, tmp_path: Path) -> Finding:
    settings = Settings(cache_dir=tmp_path, upstream=text, sumdb=spec)
    async with Inquiry(settings) as inquiry:
        return await check_database(settings, spec, inquiry)


async def test_each_is_asked_at_once(upstream: FakeUpstream, tmp_path: Path) -> None:
    gate = upstream.hold("/a/*")
    asked = asyncio.create_task(upstreams(f"{upstream.url}/a|{upstream.url}/b", tmp_path))
    await gate.arrived.wait()
    while not upstream.count("/b/*"):
        await asyncio.sleep(0.01)
    gate.open()
    assert (await asked).status == "ok"


async def test_silence(upstream: FakeUpstream, tmp_path: Path) -> None:
    upstream.hold("/golang.org/*")
    found = await upstreams(upstream.url, tmp_path, 0.2)
    assert found.status == "failed"
    assert upstream.name in found.found
    assert found.remedy.startswith("check the network, DNS")


async def test_trickle_is_bounded_too(upstream: FakeUpstream, tmp_path: Path) -> None:
    upstream.on("/golang.org/*", Reply(b"x" * 10, send=5, then="stall"))
    assert (await upstreams(upstream.url, tmp_path, 0.2)).status == "failed"


async def test_no_tls(upstream: FakeUpstream, tmp_path: Path) -> None:
    found = await upstreams(upstream.url.replace("http:", "https:"), tmp_path, 2)
    assert found.status == "failed"
    assert upstream.name in found.found


async def test_off(tmp_path: Path) -> None:
    assert (await upstreams("off", tmp_path)).status == "ok"


async def test_file_upstream(tmp_path: Path) -> None:
    assert (await upstreams(f"file://{tmp_path}", tmp_path)).status == "ok"
    found = await upstreams(f"file://{tmp_path}/none", tmp_path)
    assert (found.status, found.remedy) == ("failed", "set upstream to a directory that exists")
    file = tmp_path / "golang.org" / "x" / "text" / "@v" / "v0.3.0.info"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    found = await upstreams(f"file://{tmp_path}", tmp_path)
    assert found.found.startswith(f"{tmp_path}: read in ")


async def test_a_comma_after_one_that_answers_blocks_nothing(upstream: FakeUpstream, tmp_path: Path) -> None:
    assert (await upstreams(f"{upstream.url},http://127.0.0.1:1", tmp_path)).status == "warning"


async def test_bad_ca_file(tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path, upstream_ca_file=tmp_path / "none.pem")
    with pytest.raises(StartError, match="upstream_ca_file"):
        await Inquiry(settings).__aenter__()


def test_ca_file_that_has_gone_meanwhile(tmp_path: Path) -> None:
    settings = Settings(
        cache_dir=tmp_path / "cache",
        admin_listen=Address("127.0.0.1", 0),
        upstream_ca_file=tmp_path / "none.pem",
    )
    findings = {check.id: check.finding for check in examine(lambda: Loaded(settings, {}, (), None))}
    assert findings["configuration"].found == "valid; every setting has its default"
    assert findings["upstreams"].status == "failed"
    assert "upstream_ca_file" in findings["upstreams"].remedy
    assert findings["database"].status == findings["clock"].status == "skipped"


async def test_certificate_is_not_trusted(tmp_path: Path) -> None:
    reply = Told("connection", "h: its certificate is not trusted: self-signed certificate")

    class Answers(Inquiry):
        async def ask(self, spec: object, path: str) -> Told:
            return reply

    settings = Settings(cache_dir=tmp_path, upstream="https://h")
    found = await check_upstreams(settings, Answers(settings))
    assert (found.status, found.found) == ("failed", reply.sentence)
    assert "upstream_ca_file" in found.remedy


async def test_database_by_its_own_url(upstream: FakeUpstream, tmp_path: Path) -> None:
    fake = FakeSumdb.make(3, name=NAME)
    carry(upstream, fake, "/")
    spec = SumdbSpec(NAME, str(fake.key), upstream.url)
    found = await database("http://127.0.0.1:1", spec, tmp_path)
    assert found == Finding("ok", f"{NAME} has signed a log of 3 records, says {upstream.name}")
    assert fake.requests == ["latest"]


async def test_database_after_a_liar(upstream: FakeUpstream, tmp_path: Path) -> None:
    fake = FakeSumdb.make(3, name=NAME)
    liar = FakeSumdb.make(3, name=NAME)
    liar.sign_as(Signer.make(NAME, bytes(32)))
    carry(upstream, liar, f"/liar/sumdb/{NAME}/")
    carry(upstream, fake)
    spec = SumdbSpec(NAME, str(fake.key))
    found = await database(f"{upstream.url}/liar|{upstream.url}", spec, tmp_path)
    assert found.status == "warning"
    assert "has no signature by" in found.found
    assert "take the upstream" in found.remedy


async def test_database_broken_signature(upstream: FakeUpstream, tmp_path: Path) -> None:
    fake = FakeSumdb.make(3, name=NAME)
    fake.break_signature()
    carry(upstream, fake)
    found = await database(upstream.url, SumdbSpec(NAME, str(fake.key)), tmp_path)
    assert found.status == "failed"
    assert "is invalid" in found.found


def test_clock_offset() -> None:
    assert clock_offset({"Date": formatdate(NOW + 5, usegmt=True)}, NOW) == 5
    assert clock_offset({"Date": formatdate(NOW - 50, usegmt=True), "Age": "50"}, NOW) == 0
    assert clock_offset({"Date": formatdate(NOW, usegmt=True), "Age": "x"}, NOW) == 0
    assert clock_offset({"Date": "yesterday"}, NOW) is None
    assert clock_offset({}, NOW) is None


@pytest.mark.parametrize(
    ("offsets", "status", "words"),
    [
        ({}, "skipped", "no answer told a date"),
        ({"a": 0.4}, "ok", "within 2 s of a"),
        ({"a": 7000.0, "b": -30.0}, "ok", "within 31 s of b"),
        ({"a": 61.0, "b": 7000.0}, "warning", "this host's clock is 1m 1s behind that of a"),
        ({"a": -90_000.0}, "failed", "this host's clock is 1d 1h ahead of that of a"),
    ],
)
def test_clock(offsets: dict[str, float], status: str, words: str) -> None:
    found = check_clock(offsets)
    assert (found.status, found.found) == (status, words)


def test_a_proxy_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    settings = Settings(cache_dir=tmp_path, upstream="http://127.0.0.1:1", listen=(Address("127.0.0.1", 0),))
    checks = {each.id: each.finding for each in examine(lambda: Loaded(settings, {}, (), None))}
    assert checks["upstreams"].status == "failed"
    assert checks["upstreams"].remedy == "correct or unset HTTPS_PROXY"
    assert checks["database"].found == "HTTPS_PROXY must be usable first"
