"""A toolchain's zip as a tarball: whatever reads .tar.gz finds in it what the zip has, and nothing else."""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol.modzip import check_zip
from goproxy_vm.protocol.tarball import Tarball
from tests.fakes.modules import EPOCH, build_zip

MODULE, VERSION = "golang.org/toolchain", "v0.0.1-go1.99.1.linux-amd64"
PREFIX = f"{MODULE}@{VERSION}/"
READERS = {
    "tar": ["tar", "-xzof", "-"],
    "busybox": ["busybox", "tar", "-xzof", "-"],
    "bsdtar": ["bsdtar", "-xzof", "-"],
}

FILES = {
    "VERSION": b"go1.99.1\n",
    "bin/go": b"#!/bin/sh\necho go version go1.99.1 linux/amd64\n",
    "bin/gofmt": b"g" * 100_000,
    "empty": b"",
    "lib/wasm/go_js_wasm_exec": b"#!/usr/bin/env bash\n",
    "lib/time/update.bash": b"no\n",
    "pkg/tool/linux_amd64/compile": bytes(70_000),
    "pkg/include/funcdata.h": b"h" * 512,
    "src/_go.mod": b"module std\n",
    f"test/{'p' * 90}/{'q' * 90}.go": b"cut in two at a slash",
    f"test/{'r' * 160}.go": b"cannot be cut",
    f"src/{'d/' * 90}{'e' * 20}.go": b"over 155 before, over 100 behind" * 9,
    "src/ünïcode-世界.go": b"package p\n",
}


def planned(zipped: bytes) -> Tarball:
    with io.BytesIO(zipped) as file:
        return Tarball.plan(file, MODULE, VERSION)


def written(zipped: bytes, step: int = 1000) -> bytes:
    """The whole tarball, read in steps."""
    plan = planned(zipped)

    def pread(offset: int, count: int) -> bytes:
        return zipped[offset : offset + count]

    data = b"".join(plan.read(pread, at, step) for at in range(0, plan.length, step))
    assert len(data) == plan.length
    assert plan.read(pread, plan.length, step) == b""
    return data


def members(data: bytes) -> dict[str, tuple[bytes, int, float]]:
    """What Python finds: content, mode and time by name."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        found = {}
        for member in tar:
            assert member.isreg()
            assert (member.uid, member.gid) == (0, 0)
            content = tar.extractfile(member)
            assert content is not None
            found[member.name] = content.read(), member.mode, member.mtime
        return found


@pytest.fixture(params=[False, True], ids=["deflated", "stored"])
def zipped(request: pytest.FixtureRequest) -> bytes:
    return build_zip(MODULE, VERSION, FILES, stored=request.param)


def test_it_has_the_files_of_the_zip_below_go(zipped: bytes) -> None:
    found = members(written(zipped))
    assert {name: content for name, (content, _, _) in found.items()} == {
        f"go/{name}": content for name, content in FILES.items()
    }
    assert [name for name, (_, mode, _) in found.items() if mode != 0o644] == [
        "go/bin/go",
        "go/bin/gofmt",
        "go/lib/wasm/go_js_wasm_exec",
        "go/pkg/tool/linux_amd64/compile",
    ]
    assert {mode for _, mode, _ in found.values()} == {0o644, 0o755}
    assert {mtime for _, _, mtime in found.values()} == {0}


def test_nothing_is_compressed_anew(zipped: bytes) -> None:
    """Each deflate stream of the zip stands in the tarball as it is, and is no larger than tar needs it."""
    data = written(zipped)
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        for info in archive.infolist():
            start = info.header_offset + 30 + len(info.filename.encode())
            stream = zipped[start : start + info.compress_size]
            assert stream[:65535] in data


@pytest.mark.parametrize("reader", READERS)
def test_others_read_it(reader: str, zipped: bytes, tmp_path: Path) -> None:
    command = READERS[reader]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=tmp_path, input=written(zipped), capture_output=True, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    found = {str(path.relative_to(tmp_path / "go")): path for path in tmp_path.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == FILES
    executable = {name for name, path in found.items() if path.stat().st_mode & 0o111}
    assert executable == {name for name in FILES if name.startswith(("bin/", "pkg/tool/"))} | {
        "lib/wasm/go_js_wasm_exec"
    }


names = st.lists(
    st.text("abcdefgXYZ019._-é世", min_size=1, max_size=60).filter(lambda name: name.strip(".")),
    min_size=1,
    max_size=6,
).map("/".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        names, st.tuples(st.binary(max_size=2000), st.integers(1, 80), st.booleans()), max_size=6
    ),
    st.integers(1, 3000),
)
def test_any_zip(given_files: dict[str, tuple[bytes, int, bool]], step: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, (data, times, deflated) in given_files.items():
            info = zipfile.ZipInfo(PREFIX + name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
            archive.writestr(info, data * times)
    zipped = buffer.getvalue()
    data = written(zipped, step)
    assert data == written(zipped, 1 << 20), "where it is cut does not matter"
    found = {name: content for name, (content, _, _) in members(data).items()}
    assert found == {f"go/{name}": data * times for name, (data, times, _) in given_files.items()}
    assert len(gzip.decompress(data)) % 512 == 0


def test_a_plan_as_bytes(zipped: bytes) -> None:
    plan = planned(zipped)
    again = Tarball.from_bytes(plan.to_bytes())
    assert (again.length, again.mark) == (plan.length, plan.mark)
    assert again.to_bytes() == plan.to_bytes() == planned(zipped).to_bytes()
    assert len(plan.mark) == 8
    assert plan.mark != planned(build_zip(MODULE, VERSION, {"VERSION": b""})).mark


def test_a_zip_that_got_shorter_gives_less(zipped: bytes) -> None:
    """It is noticed, and nothing stands in for what is missing."""
    plan = planned(zipped)
    whole = plan.read(lambda at, n: zipped[at : at + n], 0, plan.length)
    cut = plan.read(lambda at, n: zipped[: len(zipped) // 2][at : at + n], 0, plan.length)
    assert len(cut) < plan.length
    assert whole.startswith(cut)


def with_appendix(zipped: bytes, name: str, appendix: bytes) -> bytes:
    """The zip with bytes between the end of an entry's deflate stream and that of its content by the
    directory. Go and zipfile skip them, and so does h1."""
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    out, records = bytearray(), bytearray()
    for info, data in entries:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = deflate.compress(data) + deflate.flush()
        body += appendix if info.filename == PREFIX + name else b""
        file = info.filename.encode()
        common = struct.pack("<HHHHLLLHH", 0, 8, 0, 33, info.CRC, len(body), len(data), len(file), 0)
        records += b"PK\x01\x02" + struct.pack("<HH", 20, 20) + common
        records += struct.pack("<HHHLL", 0, 0, 0, 0, len(out)) + file
        out += b"PK\x03\x04" + struct.pack("<H", 20) + common + file + body
    end = struct.pack("<HHHHLLH", 0, 0, len(entries), len(entries), len(records), len(out), 0)
    return bytes(out + records) + b"PK\x05\x06" + end


def test_what_no_hash_knows_of_is_left_behind() -> None:
    """An upstream could put a file of its own into the tarball of a zip whose h1 is right: the end of a gzip
    member, and members with whatever tar is to unpack."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        link = tarfile.TarInfo("go/src/etc")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    data = FILES["bin/go"]
    padding = bytes(-len(data) % 512)
    evil = struct.pack("<LL", zlib.crc32(data), len(data)) + gzip.compress(padding + tar.getvalue()[:512])
    honest = build_zip(MODULE, VERSION, FILES)
    zipped = with_appendix(honest, "bin/go", evil)
    with io.BytesIO(zipped) as file, io.BytesIO(honest) as other:
        assert check_zip(file, MODULE, VERSION).h1 == check_zip(other, MODULE, VERSION).h1
    assert evil in zipped
    data = written(zipped)
    assert evil not in data
    assert members(data) == members(written(honest))


def test_a_crc_that_the_directory_does_not_say() -> None:
    """Go takes 0 for unknown; gzip does not."""
    zipped = bytearray(build_zip(MODULE, VERSION, {"VERSION": b"go1.99.1\n"}))
    at = zipped.index(b"PK\x01\x02") + 16
    zipped[at : at + 4] = zipped[14:18] = bytes(4)
    with io.BytesIO(zipped) as file:
        check_zip(file, MODULE, VERSION)
    assert members(written(bytes(zipped)))["go/VERSION"][0] == b"go1.99.1\n"


@pytest.mark.parametrize("cut", [0, 30, 400, -1])
def test_what_is_no_zip(cut: int) -> None:
    with pytest.raises(ContentError, match=r"^zip: "):
        planned(build_zip(MODULE, VERSION, FILES)[:cut])


def test_a_zip_of_something_else() -> None:
    with pytest.raises(ContentError, match="does not have the prefix"):
        planned(build_zip("example.com/m", "v1.0.0", {"go.mod": b"module example.com/m\n"}))


def test_directories_are_none_of_its_files() -> None:
    assert list(members(written(build_zip(MODULE, VERSION, {"src/": b"", "src/a.go": b"a"})))) == [
        "go/src/a.go"
    ]
