"""Zips against Go's own verdicts and hashes (PROTOCOL cases 64–73)."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol.dirhash import h1_lines
from goproxy_vm.protocol.modzip import MAX_SPECIAL, ZipReport, check_zip
from tests.e2e.gocommand import goroot
from tests.fakes.modules import EPOCH, build_zip, raw_zip
from tests.vectors import vectors

M, V = "example.com/m", "v1.0.0"
P = f"{M}@{V}/"


def check(data: bytes, module: str = M, version: str = V, **limits: int) -> ZipReport:
    return check_zip(io.BytesIO(data), module, version, **limits)


def refused(data: bytes, match: str = "zip", **limits: int) -> None:
    with pytest.raises(ContentError, match=match):
        check(data, **limits)


@pytest.mark.parametrize("case", vectors()["h1_zip"], ids=lambda c: c["id"])
def test_verdict_and_h1_are_gos(case: dict[str, Any]) -> None:
    """What ``go`` would unzip is accepted with its h1; what it would not, is not."""
    data = base64.b64decode(case["zip_b64"])
    if case["unzip_ok"]:
        assert check(data, case["module"], case["version"]).h1 == case["h1"]
    else:
        with pytest.raises(ContentError):
            check(data, case["module"], case["version"])


@pytest.mark.parametrize(
    "case", [c for c in vectors()["h1_zip_real"] if "name_tab_sha256" in c], ids=lambda c: c["version"]
)
def test_h1_of_a_real_file_list(case: dict[str, Any]) -> None:
    pairs = [line.split("\t") for line in case["name_tab_sha256"]]
    assert len(pairs) == case["files"]
    assert h1_lines((name.encode(), bytes.fromhex(digest)) for name, digest in pairs) == case["h1"]


@pytest.mark.parametrize(
    "case", [c for c in vectors()["h1_zip_real"] if "zip_sha256" in c], ids=lambda c: c["version"]
)
def test_real_zips_of_the_go_toolchain(case: dict[str, Any]) -> None:
    file = goroot() / "lib" / "fips140" / f"{case['version']}.zip"
    if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != case["zip_sha256"]:
        pytest.skip("this Go toolchain ships another fips140 zip")
    with file.open("rb") as opened:
        assert check_zip(opened, case["module"], case["version"]).h1 == case["h1"]


@pytest.mark.parametrize("data", [b"", b"<html></html>", b"PK\x05\x06" + bytes(10)])
def test_case_64_empty_or_html(data: bytes) -> None:
    refused(data, "not a valid zip")


@pytest.mark.parametrize("name", [f"{M}@v1.0.1/a.go", "example.com/!m@v1.0.0/a.go", "a.go", f"{M}@{V}"])
def test_case_65_prefix(name: str) -> None:
    refused(raw_zip({name: b""}), "prefix")


@pytest.mark.parametrize("name", ["../x", "/x", "a\\b", "x?y", "☺", "a//b", "./a", "a/.", "x./y", "con.txt"])
def test_case_66_names(name: str) -> None:
    refused(raw_zip({P + name: b""}), "malformed file path")


@pytest.mark.parametrize(
    "names",
    [("a.go", "A.go"), ("k", "\u212a"), ("d", "d/e"), ("d/e", "d"), ("x/1", "X/2"), ("d/", "d"), ("ſ", "S")],
)
def test_case_67_collisions(names: tuple[str, ...]) -> None:
    refused(raw_zip(dict.fromkeys((P + name for name in names), b"")))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_case_67_the_same_file_twice() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for data in (b"1", b"2"):
            archive.writestr(zipfile.ZipInfo(P + "a.go", EPOCH), data)
    refused(buffer.getvalue(), "twice")


@pytest.mark.parametrize("name", ["sub/go.mod", "GO.MOD", "sub/Go.Mod"])
def test_case_68_go_mod_elsewhere_or_otherwise(name: str) -> None:
    refused(raw_zip({P + name: b""}), "go.mod")


def test_case_69_over_the_limit() -> None:
    data = build_zip(M, V, {"a": bytes(1000)}, stored=True)
    refused(data, "over the limit", max_bytes=1000)
    assert check(data, max_bytes=len(data)).uncompressed == 1000


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    """The archive with bytes of its one central record changed."""
    start = data.rindex(b"PK\x01\x02") + offset
    return data[:start] + value + data[start + len(value) :]


@pytest.mark.parametrize(("size", "match"), [(1 << 29, "add up"), (1001, "instead"), (999, "more than")])
def test_case_69_and_70_declared_size(size: int, match: str) -> None:
    for stored in (True, False):
        data = build_zip(M, V, {"a": bytes(1000)}, stored=stored)
        refused(patched(data, 24, size.to_bytes(4, "little")), match)


@pytest.mark.parametrize("name", ["go.mod", "LICENSE"])
def test_case_69_special_files_are_bounded(name: str) -> None:
    data = build_zip(M, V, {name: b"x"})
    refused(patched(data, 24, (MAX_SPECIAL + 1).to_bytes(4, "little")), "over the limit")


def test_case_70_bad_crc() -> None:
    data = build_zip(M, V, {"a": b"x"})
    refused(patched(data, 16, b"\1\2\3\4"), "checksum")
    assert check(patched(data, 16, bytes(4))).h1 == check(data).h1  # zero skips the check, as in Go


def test_case_70_data_descriptor_must_agree() -> None:
    case = next(c for c in vectors()["h1_zip"] if c["id"] == "ok-store")
    data = base64.b64decode(case["zip_b64"])
    broken = data.replace(b"PK\x07\x08", b"PK\x07\x09")
    assert broken != data
    with pytest.raises(ContentError, match="checksum"):
        check(broken, case["module"], case["version"])


def test_case_70_method_12() -> None:
    refused(patched(build_zip(M, V, {"a": b"x"}), 10, b"\x0c\x00"), "method 12")


def test_case_70_offset_elsewhere() -> None:
    data = build_zip(M, V, {"a": b"x"})
    refused(patched(data, 42, b"\x05\0\0\0"), "no header")
    refused(patched(data, 42, (1 << 30).to_bytes(4, "little")), "cut off")


def test_case_70_content_is_cut_off() -> None:
    data = build_zip(M, V, {"a": bytes(range(256)) * 10})
    refused(patched(data, 20, (4).to_bytes(4, "little")), "ends too early")
    refused(patched(build_zip(M, V, {"a": bytes(50)}, stored=True), 20, (9999).to_bytes(4, "little")))


def test_case_71_name_is_utf8_without_its_flag() -> None:
    flagged = raw_zip({P + "日本語.go": b"x"})
    unflagged = flagged.replace(b"\x00\x08\x00\x00", b"\x00\x00\x00\x00", 1)
    start = unflagged.rindex(b"PK\x01\x02") + 9
    unflagged = unflagged[:start] + bytes([unflagged[start] & ~0x08]) + unflagged[start + 1 :]
    assert unflagged != flagged
    assert check(unflagged).h1 == check(flagged).h1


def test_case_71_name_is_no_utf8() -> None:
    refused(raw_zip({P + "x~y": b""}).replace(b"x~y", b"x\xffy"), "UTF-8")


def test_case_72_directory_entry_is_hashed() -> None:
    assert check(raw_zip({P + "d/": b"", P + "d/a": b"x"})).h1 != check(raw_zip({P + "d/a": b"x"})).h1
    refused(raw_zip({P + "d/": b"content"}), "directory with content")


def test_case_73_symlink_mode() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(P + "link", EPOCH)
        info.external_attr = 0o120777 << 16
        archive.writestr(info, b"/etc/passwd")
    assert check(buffer.getvalue()).files == 1


def test_large_entries_are_read_in_pieces() -> None:
    body = bytes(5 << 20)
    for stored in (True, False):
        report = check(build_zip(M, V, {"a": body}, stored=stored))
        assert report.uncompressed == len(body)
        line = hashlib.sha256(body).digest()
        assert report.h1 == h1_lines([((P + "a").encode(), line)])


GOOD = build_zip(M, V, {"go.mod": b"module example.com/m\n", "a.go": b"package m\n" * 50, "d/é.go": b"x"})


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_any_changed_byte_is_harmless_or_refused(offset: int, change: int) -> None:
    data = GOOD[:offset] + bytes([GOOD[offset] ^ change]) + GOOD[offset + 1 :]
    try:
        report = check(data)
    except ContentError:
        return
    assert report.uncompressed <= 2 * len(GOOD) + 1000


@given(st.binary(max_size=300))
def test_any_bytes_raise_nothing_else(data: bytes) -> None:
    refused(data)
