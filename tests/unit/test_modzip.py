"""Zips against Go's own verdicts and hashes (PROTOCOL cases 64–73)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol.archive import Expensive
from goproxy_vm.protocol.dirhash import h1_lines
from goproxy_vm.protocol.modzip import MAX_SPECIAL, Work, ZipReport, check_zip
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


@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 9), st.binary(max_size=9)), max_size=4))
def test_any_splice_raises_nothing_else(splices: list[tuple[int, int, bytes]]) -> None:
    data = GOOD
    for at, cut, inserted in splices:
        data = data[:at] + inserted + data[at + cut :]
    with contextlib.suppress(ContentError):
        check(data)


# Where Go's reader and Python's zipfile part ways: what follows is Go's side of each.


def wide_zip(extra: bytes, *, size: int = 0, offset: int = 0) -> bytes:
    """One empty entry whose record has these values, and this extra field."""
    name = (P + "a").encode()
    body = struct.pack("<4s22xHH", b"PK\x03\x04", len(name), 0) + name
    record = struct.pack("<4s20xLHH10xL", b"PK\x01\x02", size, len(name), len(extra), offset) + name + extra
    return body + record + struct.pack("<4s4xHHLLH", b"PK\x05\x06", 1, 1, len(record), len(body), 0)


ALL = 0xFFFF_FFFF
EMPTY = wide_zip(b"")


@pytest.mark.parametrize(
    "extra",
    [
        struct.pack("<HHq", 1, 8, 0),
        struct.pack("<HHHHq", 9, 0, 1, 8, 0),
        struct.pack("<HHq", 1, 8, 0) + b"\x01",
    ],
)
def test_offset_in_the_64_bit_field(extra: bytes) -> None:
    assert check(wide_zip(extra, offset=ALL)) == check(EMPTY)


@pytest.mark.parametrize("extra", [b"", struct.pack("<HHL", 1, 4, 0), struct.pack("<HHB", 1, 500, 0)])
def test_offset_that_is_nowhere(extra: bytes) -> None:
    refused(wide_zip(extra, offset=ALL), "0 entries instead of 1")


@pytest.mark.parametrize("offset", [-1, -(1 << 63), (1 << 63) - 1])
def test_offset_outside_the_file_is_no_error_of_this_host(tmp_path: Path, offset: int) -> None:
    """A real file refuses such a seek; only a fault of the archive may come of it."""
    file = tmp_path / "zip"
    file.write_bytes(wide_zip(struct.pack("<HHq", 1, 8, offset), offset=ALL))
    with file.open("rb") as opened, pytest.raises(ContentError, match="cut off"):
        check_zip(opened, M, V)


def test_negative_size_in_the_64_bit_field() -> None:
    refused(wide_zip(struct.pack("<HHq", 1, 8, -1), size=ALL), "add up")
    refused(wide_zip(b"", size=ALL), "add up")  # without the field it is a plain number


@pytest.mark.parametrize(
    "extra",
    [
        struct.pack("<HHBL", 0x7075, 5, 1, 0),
        struct.pack("<HH", 0x7075, 3) + b"abc",
        struct.pack("<HHBL", 0x7075, 5, 1, zlib.crc32((P + "a").encode())),
        struct.pack("<HHBL", 0x7075, 6, 1, zlib.crc32((P + "a").encode())) + b"b",
        struct.pack("<HH", 9, 500) + b"abc",
    ],
)
def test_extra_fields_that_zipfile_reads_are_ignored(extra: bytes) -> None:
    assert check(wide_zip(extra)) == check(EMPTY)


def end_of(data: bytes, **values: int) -> bytes:
    """The archive with values of its end record changed."""
    at = data.rindex(b"PK\x05\x06")
    end = dict(
        zip(("count", "size", "offset", "comment"), struct.unpack_from("<10xHLLH", data, at), strict=True)
    )
    end |= values
    return data[:at] + struct.pack("<4s6xHLLH", b"PK\x05\x06", *end.values()) + data[at + 22 :]


@pytest.mark.parametrize("values", [{"count": 2}, {"count": 0}])
def test_number_of_records_must_be_right(values: dict[str, int]) -> None:
    refused(end_of(EMPTY, **values), "entries instead of")


@pytest.mark.parametrize("values", [{"comment": 1}, {"size": 1 << 20}])
def test_end_record_must_be_within_the_file(values: dict[str, int]) -> None:
    refused(end_of(EMPTY, **values), "not a valid zip")


@pytest.mark.parametrize("length", [1, 1000, 1003, 2000, 65_535])
def test_comment_of_any_length(length: int) -> None:
    assert check(end_of(EMPTY, comment=length) + bytes(length)) == check(EMPTY)


def test_offsets_count_from_the_archive_or_from_the_file() -> None:
    assert check(b"JUNK" + EMPTY) == check(EMPTY)
    at = EMPTY.index(b"PK\x01\x02")
    between = EMPTY[:-22] + b"JUNK" + EMPTY[-22:]
    assert check(end_of(between, offset=at)) == check(EMPTY)


def test_file_that_ends_in_the_directory() -> None:
    name = b"x" * 22
    record = struct.pack("<4s24xH16x", b"PK\x01\x02", len(name)) + struct.pack("<4s18x", b"PK\x05\x06")
    refused(end_of(record, count=1, size=46), "ends in the directory")


def test_data_descriptor_that_is_cut_off() -> None:
    data = bytearray(wide_zip(b""))
    at = data.index(b"PK\x01\x02")
    data[at + 8] = 8  # a descriptor follows, but for the file's end
    data[at + 20 : at + 24] = (1 << 20).to_bytes(4, "little")
    data[at + 10] = 8
    data[30 + len(P) + 1 : 30 + len(P) + 1] = LAST_BLOCK
    refused(end_of(bytes(data), offset=at + len(LAST_BLOCK)), "descriptor is cut off")


def test_64_bit_end() -> None:
    at = EMPTY.index(b"PK\x01\x02")
    size = len(EMPTY) - 22 - at
    end = struct.pack("<4s28xQqq", b"PK\x06\x06", 1, size, at)
    locator = struct.pack("<4sLqL", b"PK\x06\x07", 0, len(EMPTY) - 22, 1)
    narrow = end_of(EMPTY, count=0xFFFF)
    assert check(narrow[:-22] + end + locator + narrow[-22:]) == check(EMPTY)
    refused(narrow[:-22] + b"x" + end[1:] + locator + narrow[-22:], "no 64-bit end")
    negative = struct.pack("<4s28xQqq", b"PK\x06\x06", 1, -1, at)
    refused(narrow[:-22] + negative + locator + narrow[-22:], "outside")
    refused(narrow, "entries instead of")  # no locator: the number is taken as it stands
    refused(narrow[:-22] + end + locator.replace(b"PK", b"KP") + narrow[-22:], "instead of|outside")


def test_more_than_65535_entries() -> None:
    directory = P.encode()
    record = struct.pack("<4s24xH16x", b"PK\x01\x02", len(directory)) + directory
    body = struct.pack("<4s22xHH", b"PK\x03\x04", len(directory), 0) + directory
    count = 65_536 + 3
    end = struct.pack("<4s4xHHLLH", b"PK\x05\x06", 3, 3, count * len(record), len(body), 0)
    assert check(body + record * count + end).files == count


def overlapping(count: int, compressed: bytes) -> bytes:
    """Entries of one body."""
    body = struct.pack("<4s26x", b"PK\x03\x04") + compressed
    names = [f"{P}{i}".encode() for i in range(count)]
    records = b"".join(
        struct.pack("<4s6xH8xLLH16x", b"PK\x01\x02", 8, len(compressed), 0, len(name)) + name
        for name in names
    )
    return body + records + struct.pack("<4s4xHHLLH", b"PK\x05\x06", count, count, len(records), len(body), 0)


EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"
LAST_BLOCK = b"\x01\x00\x00\xff\xff"


def test_overlapping_entries_are_refused() -> None:
    """As Python ≥ 3.12 does; Go reads them, each time anew: 540 entries of one body cost 22 s."""
    assert check(overlapping(1, LAST_BLOCK)).files == 1
    refused(overlapping(2, LAST_BLOCK), "overlaps that of")
    refused(overlapping(540, EMPTY_BLOCK * 99 + LAST_BLOCK), "overlaps that of")


@pytest.mark.parametrize("stored", [True, False])
def test_an_entry_within_another_is_refused(*, stored: bool) -> None:
    """A whole zip in one entry, whose directory the outer one's entries are taken from as well."""
    inner = raw_zip({P + "b": b"b" * 100}, stored=stored)
    outer = bytearray(raw_zip({P + "a": inner, P + "b": b"b" * 100}, stored=True))
    at = outer.rindex(b"PK\x01\x02")
    real = inner.rindex(b"PK\x01\x02")
    outer[at : at + 42] = inner[real : real + 42]  # method and sizes
    outer[at + 42 : at + 46] = outer.index(inner).to_bytes(4, "little")
    refused(bytes(outer), "overlaps that of")


def test_nothing_is_read_twice() -> None:
    """Not even by entries that are refused at last."""

    class Counted(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.taken += len(data)
            return data

    for data in (
        overlapping(540, EMPTY_BLOCK * 20_000 + LAST_BLOCK),
        build_zip(M, V, {"a": bytes(9_000_000)}),
    ):
        file = Counted(data)
        with contextlib.suppress(ContentError):
            check_zip(file, M, V)
        assert file.taken < 2 * len(data) + 70_000


def test_what_would_cost_more_is_told_before_any_content_is_read() -> None:
    most = Work(directory=5000, content=100_000)
    good = build_zip(M, V, {f"f{i}": b"x" * 1000 for i in range(50)})
    assert check_zip(io.BytesIO(good), M, V, most=most) == check(good)
    for costly in (
        build_zip(M, V, {"a": bytes(50_001), "b": bytes(50_000)}),
        raw_zip({f"{P}f{i}": b"" for i in range(100)}),
    ):
        file = io.BytesIO(costly.replace(b"PK\x03\x04", bytes(4)))
        with pytest.raises(Expensive):
            check_zip(file, M, V, most=most)


def test_directory_that_is_there_twice() -> None:
    one = raw_zip({P + "d/": b"", P + "e/": b""})
    same = one.replace((P + "e/").encode(), (P + "d/").encode())
    assert check(same).files == 2
    digest = hashlib.sha256().digest()
    assert check(same).h1 == h1_lines([((P + "d/").encode(), digest)] * 2)


def test_deep_path_costs_no_more_than_its_length() -> None:
    """A table of its parents took half a gigabyte."""
    data = raw_zip({P + "a/" * 16_000 + "b": b""})
    tracemalloc.start()
    try:
        assert check(data).files == 1
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    refused(raw_zip({P + "a/" * 100 + "b": b"", P + "a/" * 50 + "A/x": b""}), "collide")


@pytest.mark.parametrize("name", ["x" * 60_000 + "?", "\x01" * 60_000, "☺" * 20_000, "a/" * 30_000 + "/"])
def test_sentence_is_bounded_and_printable(name: str) -> None:
    with pytest.raises(ContentError) as caught:
        check(raw_zip({P + name: b""}))
    assert len(caught.value.sentence) < 600
    assert caught.value.sentence.startswith("zip: ")


def test_64_bit_archives() -> None:
    """More entries than 16 bits count, and entries whose sizes stand in the 64-bit extra field."""
    many = raw_zip({f"{P}d{i % 100}/f{i}": b"" for i in range(65_600)}, stored=True)
    assert b"PK\x06\x06" in many
    assert check(many).files == 65_600
    refused(many.replace(b"PK\x06\x06", b"PK\x06\x05"), "not a valid zip")
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w") as archive,
        archive.open(zipfile.ZipInfo(P + "a", EPOCH), "w", force_zip64=True) as entry,
    ):
        entry.write(b"content")
    assert check(buffer.getvalue()).h1 == check(raw_zip({P + "a": b"content"})).h1


def widened(data: bytes, extra: bytes) -> bytes:
    """The archive with its one central record's sizes and offset moved into an extra field."""
    start = data.rindex(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    record = bytearray(data[start:end])
    record[20:28] = b"\xff" * 8
    record[30:32] = len(extra).to_bytes(2, "little")
    record[42:46] = b"\xff" * 4
    tail = bytearray(data[end:])
    tail[12:16] = (len(record) + len(extra)).to_bytes(4, "little")
    return data[:start] + bytes(record) + extra + bytes(tail)


def test_64_bit_extra_field() -> None:
    data = build_zip(M, V, {"a": b"content"}, stored=True)
    field = b"\x01\x00\x18\x00" + struct.pack("<qqq", 7, 7, 0)
    other = b"\x99\x00\x02\x00xx"
    assert check(widened(data, other + field)).h1 == check(data).h1
    for extra in (b"", other, field[:10], b"\x01\x00\x08\x00" + bytes(8)):
        refused(widened(data, extra), "not a valid zip")
    refused(widened(data, field[:4] + struct.pack("<qqq", -7, 7, 0)))
    refused(widened(data, field[:4] + struct.pack("<qqq", 7, 7, -1)), "header|cut off")


def test_bytes_before_the_archive_and_behind_it() -> None:
    data = build_zip(M, V, {"a": b"content"})
    assert check(b"#!/bin/sh\n" + data).h1 == check(data).h1
    end = data.rindex(b"PK\x05\x06")
    commented = data[:-2] + b"\x05\x00hello"
    assert check(commented).h1 == check(data).h1
    refused(commented[:-1], "not a valid zip")
    refused(data[:end] + b"PK\x05\x06" + bytes(4) + b"\xff" * 12 + bytes(2), "not a valid zip")


def test_directory_that_is_cut_or_miscounted() -> None:
    data = build_zip(M, V, {"a": b"content", "b": b"content"})
    end = data.rindex(b"PK\x05\x06")
    refused(data[: end + 8] + b"\x07\x00\x07\x00" + data[end + 12 :], "2 entries instead of 7")


def test_files_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goproxy_vm.protocol.modzip.MAX_ZIP", 1500)
    refused(build_zip(M, V, {"a": bytes(1000), "b": bytes(400), "c": bytes(200)}, stored=True), "1500 bytes")


def test_long_names_make_no_long_sentences() -> None:
    with pytest.raises(ContentError) as caught:
        check(raw_zip({P + "\x01" * 60_000: b""}))
    assert len(caught.value.sentence) < 600
