"""The doctor's look at the cache directory and its disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from goproxy_vm.config import Settings
from goproxy_vm.config.values import Amount
from goproxy_vm.doctor import storage
from goproxy_vm.doctor.check import Finding
from goproxy_vm.doctor.storage import Disk, check_directory, check_disk, judge_disk

GIB = 1 << 30


def directory(path: Path, holder: int | None = 0) -> Finding:
    return check_directory(Settings(cache_dir=path), holder)


def test_a_cache(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "tmp").mkdir()
    found = directory(tmp_path)
    assert (found.status, found.remedy) == ("ok", "")
    assert "takes what is written to it" in found.found
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_ledger_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    ledger = tmp_path / "ledger.db"
    ledger.touch()
    assert directory(tmp_path).status == "ok"
    ledger.unlink()
    ledger.mkdir()
    found = directory(tmp_path)
    assert found.status == "warning"
    assert found.found.startswith(f"{ledger} is no file that user {os.geteuid()} may write to")
    assert found.remedy.startswith("remove it while the server is stopped")
    assert check_directory(Settings(cache_dir=tmp_path, ledger="off"), 0).status == "ok"


def test_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = directory(tmp_path / "file" / "cache" / "deeper")
    assert (found.status, found.found) == ("failed", f"{tmp_path}/file is not a directory")


def test_somebody_elses_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    found = directory(tmp_path)
    assert found.status == "failed"
    assert "holds other files and no cache" in found.found
    assert "an empty or a new directory" in found.remedy


def test_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(tmp_path / "nowhere")
    assert directory(tmp_path / "cache").status == "failed"


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EROFS, "set cache_dir"), (errno.ENOSPC, "make room on the disk")]
)
def test_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def fail(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage, "_write", fail)
    found = directory(tmp_path / "new")
    assert (found.status, found.found) == (
        "failed",
        f"{tmp_path} cannot be written to: {os.strerror(number)}",
    )
    assert remedy in found.remedy


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "virtiofs", "vboxsf", "fuse.sshfs"])
def test_shared_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(storage, "file_system", lambda _: kind)
    found = directory(tmp_path)
    assert found.status == "warning"
    assert f"is on {kind}, a network or shared file system" in found.found
    assert "local disk" in found.remedy


def test_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    found = directory(tmp_path)
    assert found.status == "failed"
    assert f"it belongs to user {owner}, not to this user {owner + 1}" in found.found
    assert found.remedy == f"run the server as user {owner}, or: chown -R {owner + 1} {tmp_path}"


@pytest.mark.parametrize(("holder", "status"), [(0, "warning"), (7, "ok")])
def test_root_looks_at_the_servers_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: int, status: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    real = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        facts = real(path, follow_symlinks=follow_symlinks)
        return os.stat_result((*facts[:4], 997, *facts[5:])) if path == tmp_path else facts

    monkeypatch.setattr(Path, "stat", stat)
    assert directory(tmp_path, holder).status == status


@pytest.mark.parametrize(
    ("disk", "status", "words"),
    [
        (Disk(100 * GIB, 60 * GIB, 10**6), "ok", ""),
        (Disk(100 * GIB, 60 * GIB, None), "ok", ""),
        (Disk(100 * GIB, GIB, 10**6), "failed", "make room on the disk or lower min_free"),
        (Disk(GIB, GIB, 10**6), "failed", "lower min_free: the disk is not that large"),
        (Disk(100 * GIB, 60 * GIB, 0), "failed", "without inodes"),
        (Disk(100 * GIB, 60 * GIB, 99), "warning", "more inodes"),
        (Disk(50 * GIB, 49 * GIB, 10**6), "warning", "lower max_size"),
    ],
)
def test_disk(disk: Disk, status: str, words: str) -> None:
    settings = Settings(cache_dir=Path("/x"), min_free=Amount(2 * GIB, None), max_size=Amount(50 * GIB, None))
    found = judge_disk(settings, disk)
    assert found.status == status
    assert words in found.remedy
    assert bool(found.remedy) == (status != "ok")
    kept = "1.00 GiB, max_size 1.00 GiB" if disk.total == GIB else "2.00 GiB, max_size 50.0 GiB"
    assert f"are free; min_free is {kept}" in found.found
    assert ("inodes" in found.found) == (disk.inodes is not None)


def test_disk_of_a_directory_to_be_made(tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path / "a" / "b", min_free=Amount(0, None))
    assert "are free" in check_disk(settings).found
