"""Clones that go keeps: mended, measured, bounded, and left alone while they are in use."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from goproxy_vm.upstream.direct.clones import OLD_SECONDS, Clones


class Kept:
    """A directory of clones, as go leaves them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def clone(self, url: str, size: int = 0, used: int = 0) -> Path:
        """A clone with a pack of ``size`` bytes, used last in second ``used``."""
        path = self.root / hashlib.sha256(f"git3:{url}".encode()).hexdigest()
        (path / "objects" / "pack").mkdir(parents=True)
        (path / "objects" / "pack" / "p.pack").write_bytes(os.urandom(size))
        (path / "refs" / "heads").mkdir(parents=True)
        (path / "refs" / "heads" / "main").write_text("0" * 40)
        info = path.with_suffix(".info")
        info.write_text(f"git3:{url}")
        path.with_suffix(".lock").touch()
        os.utime(info, (used, used))
        return path


@contextmanager
def in_use(clone: Path) -> Iterator[None]:
    """As while go works on it."""
    with clone.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_sweep_mends_what_killed_processes_left(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "vcs")
    whole, half, locked, deep, busy = (kept.clone(f"https://g/{n}") for n in range(5))
    (half / "objects/pack/tmp_pack_x").write_bytes(b"x")
    (locked / "shallow.lock").touch()
    (deep / "refs/heads/main.lock").touch()
    (busy / "shallow.lock").touch()
    (busy / "objects/pack/tmp_pack_x").touch()
    with in_use(busy):
        Clones((kept.root,), 1 << 30).sweep()
    assert (whole / "objects/pack/p.pack").exists()
    assert (half / "objects/pack/p.pack").exists()
    assert not (half / "objects/pack/tmp_pack_x").exists()
    for gone in (locked, deep):
        assert not gone.exists()
        assert not gone.with_suffix(".info").exists()
        assert gone.with_suffix(".lock").exists()  # whoever waits for it has it open
    assert (busy / "objects/pack/tmp_pack_x").exists()


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "vcs")
    old, middle, new = (kept.clone(f"https://g/{n}", 1 << 20, used=n) for n in range(3))
    clones = Clones((kept.root, tmp_path / "none"), 5 << 19)
    clones.measure()
    assert not old.exists()
    assert middle.exists()
    assert new.exists()
    assert 2 << 20 <= clones.size <= 5 << 19
    clones.used(lambda clone: clone.url == "https://g/1")
    another = kept.clone("https://g/3", 1 << 20, used=10**10)
    clones.used(lambda clone: clone.url == "https://g/3")
    assert another.exists()
    assert not new.exists()  # the one before it was used since
    assert middle.exists()


def test_what_is_in_use_is_not_evicted(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "vcs")
    old, new = (kept.clone(f"https://g/{n}", 1 << 20, used=n) for n in range(2))
    clones = Clones((kept.root,), 3 << 19)
    with in_use(old):
        clones.measure()
    assert old.exists()
    assert not new.exists()


def test_both_directories_count_together(tmp_path: Path) -> None:
    private, public = Kept(tmp_path / "vcs"), Kept(tmp_path / "vcs-public")
    old = public.clone("https://g/x", 1 << 20, used=1)
    new = private.clone("https://g/x", 1 << 20, used=2)
    Clones((private.root, public.root), 3 << 19).measure()
    assert not old.exists()
    assert new.exists()


def test_drops_what_is_said(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "vcs")
    one, two, busy = (kept.clone(f"https://g/{n}") for n in range(3))
    clones = Clones((kept.root,), 1 << 30)
    with in_use(busy):
        assert clones.drop(lambda clone: clone.url != "https://g/1", "damaged") == 1
    assert not one.exists()
    assert two.exists()
    assert busy.exists()


def test_adopts_what_was_made_anew(tmp_path: Path) -> None:
    kept, made = Kept(tmp_path / "vcs"), Kept(tmp_path / "run")
    old = kept.clone("https://g/1", 100)
    fresh = made.clone("https://g/1", 10)
    new = made.clone("https://g/2", 10)
    clones = Clones((kept.root,), 1 << 30)
    assert clones.adopt(made.root, kept.root)
    assert (old / "objects/pack/p.pack").stat().st_size == 10
    assert old.with_suffix(".info").read_text() == "git3:https://g/1"
    assert (kept.root / new.name).exists()
    assert not fresh.exists()
    assert clones.size > 0
    again = made.clone("https://g/1", 1000)
    with in_use(old):
        assert not clones.adopt(made.root, kept.root)
    assert again.exists()
    assert (old / "objects/pack/p.pack").stat().st_size == 10


def test_what_fails_counts_as_well(tmp_path: Path) -> None:
    """A run that brought nothing says nothing of the clone that it made, or made larger."""
    kept = Kept(tmp_path / "vcs")
    clones = Clones((kept.root,), 5 << 19)
    known = kept.clone("https://g/1", 1 << 20, used=1)
    clones.measure()
    kept.clone("https://g/2", 1 << 20, used=2)
    clones.used(lambda _: False)
    assert clones.size >= 2 << 20
    (known / "objects" / "pack" / "q.pack").write_bytes(os.urandom(1 << 20))
    (known / "FETCH_HEAD").write_text("")
    clones.sweep()
    assert not known.exists()
    assert 1 << 20 <= clones.size < 2 << 20


def test_clones_without_anything_go(tmp_path: Path) -> None:
    kept, made = Kept(tmp_path / "vcs"), Kept(tmp_path / "run")
    whole, packed, empty, busy = (kept.clone(f"https://g/{number}") for number in range(4))
    for clone in (packed, empty, busy):
        (clone / "refs" / "heads" / "main").unlink()
    (packed / "packed-refs").write_text("0" * 40 + " refs/heads/main\n")
    (kept.root / f"{'0' * 64}.lock").touch()
    clones = Clones((kept.root,), 1 << 30)
    with in_use(busy):
        clones.clear_out()
    there = sorted(path.name for path in kept.root.iterdir())
    expected = [f"{c.name}{end}" for c in (whole, packed, busy) for end in ("", ".info", ".lock")]
    assert there == sorted(expected)
    fresh = made.clone("https://g/0")
    (fresh / "refs" / "heads" / "main").unlink()
    assert not clones.adopt(made.root, kept.root)
    assert (whole / "refs" / "heads" / "main").exists()


def test_no_more_clones_than_can_be_looked_at(tmp_path: Path) -> None:
    """Whoever asks for what does not exist has a clone made each time: those go first."""
    public, private = Kept(tmp_path / "vcs-public"), Kept(tmp_path / "vcs")
    whole = [public.clone(f"https://g/{n}", used=n) for n in range(3)]
    others = [private.clone(f"https://p/{n}") for n in range(2)]
    clones = Clones((public.root, private.root), 1 << 30, 4)
    for number in range(20):
        empty = public.clone(f"https://none/{number}", used=10**10 + number)
        (empty / "refs" / "heads" / "main").unlink()
        clones.used(lambda _: False)
        assert len(list(public.root.glob("*.info"))) <= 4
    assert all(clone.exists() for clone in (*whole, *others))
    public.clone("https://g/3", used=3)
    public.clone("https://g/4", used=4)
    clones.used(lambda _: False)
    assert [clone.exists() for clone in whole] == [False, True, True]


def test_locks_of_clones_that_are_gone_go_while_go_runs(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "vcs")
    whole, busy = (kept.clone(f"https://g/{n}") for n in range(2))
    for number in range(20):
        (kept.root / f"{number:064}.lock").touch()
    now = whole.with_suffix(".lock").stat().st_mtime
    clones = Clones((kept.root,), 1 << 30, 4, wall=lambda: now)
    clones.measure()
    assert len(list(kept.root.glob("*.lock"))) == 22  # somebody may be about to take one that is new
    now += OLD_SECONDS + 60
    shutil.rmtree(busy)
    with in_use(busy):
        clones.measure()
    assert sorted(kept.root.glob("*.lock")) == sorted(each.with_suffix(".lock") for each in (whole, busy))


def test_whatever_else_lies_there(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "vcs")
    (kept.root / "stray").mkdir()
    (kept.root / "stray" / "file").write_bytes(b"x" * 10_000)
    (kept.root / "file").write_text("x")
    (kept.root / "link").symlink_to(tmp_path)
    clones = Clones((kept.root,), 0)
    clones.measure()
    assert not (kept.root / "stray").exists()
    assert (kept.root / "link").is_symlink()
    assert tmp_path.exists()
