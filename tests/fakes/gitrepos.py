"""Small git repositories of every shape that matters to a module's zip, made by git itself.

They are made bare by ``git fast-import``: what is in a tree is the test's choice to the byte and the mode,
whatever the file system, attributes and the user's configuration would make of it. The same calls make the
same hashes each time.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from goproxy_vm.protocol.semver import is_prerelease

FIRST = 1_704_067_200
"""2024-01-01: when the first commit of each repository was made; each later one a day later."""
DAY = 86_400
WHO = b"A U Thor <author@example.com>"


def git_environment(**more: str) -> dict[str, str]:
    """An environment in which git reads no configuration, asks nobody and calls nobody."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "none",
        **more,
    }


def git_command() -> str:
    """The git command; skips the test where there is none."""
    found = shutil.which("git")
    if found is None:
        pytest.skip("git is not installed")
    return found


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Submodule:
    """A commit of another repository, as the tree has it."""

    commit: str


@dataclass(frozen=True)
class Executable:
    """A file with mode 0755."""

    content: bytes


Entry = bytes | str | Link | Submodule | Executable | None
"""What lies at a path of a tree; None: no longer anything."""


@dataclass(frozen=True)
class Commit:
    """A commit that was made."""

    hash: str
    seconds: int

    @property
    def short(self) -> str:
        """As pseudo-versions have it."""
        return self.hash[:12]

    def pseudo(self, after: str = "", major: int = 0) -> str:
        """Its pseudo-version: ``after`` a tagged version, or of a ``major`` without one."""
        when = datetime.fromtimestamp(self.seconds, UTC).strftime("%Y%m%d%H%M%S")
        if not after:
            return f"v{major}.0.0-{when}-{self.short}"
        if is_prerelease(after):
            return f"{after}.0.{when}-{self.short}"
        begin, _, patch = after.rpartition(".")
        return f"{begin}.{int(patch) + 1}-0.{when}-{self.short}"


@dataclass
class Repository:
    """A bare repository; ``made`` counts its commits."""

    path: Path
    made: int = 0

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self.path))

    def git(self, *arguments: str, given: bytes | Iterator[bytes] = b"") -> bytes:
        """What a git command in the repository prints."""
        where = () if arguments[0] == "init" else ("--git-dir", str(self.path))
        with subprocess.Popen(
            [git_command(), *where, *arguments],
            env=git_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for chunk in [given] if isinstance(given, bytes) else given:
                process.stdin.write(chunk)
            process.stdin.close()
            printed = process.stdout.read()
        assert process.returncode == 0, f"git {' '.join(arguments)}: {process.returncode}"
        return printed

    def commit(
        self,
        files: Mapping[str, Entry],
        *tags: str,
        branch: str = "main",
        since: str | None = None,
        annotated: bool = False,
    ) -> Commit:
        """Change ``files`` on a branch, and tag what comes of it.

        ``since``: where a new branch begins; without it, and for the first commit, with nothing.
        """
        seconds = FIRST + DAY * self.made
        self.made += 1
        parent = since or (f"refs/heads/{branch}" if self._has(f"refs/heads/{branch}") else None)
        stream = b"".join(_commit(f"refs/heads/{branch}", seconds, files, parent))
        for tag in tags:
            stream += _tag(tag, ":1", seconds if annotated else None)
        stream += b"get-mark :1\ndone\n"
        made = self.git("fast-import", "--quiet", "--done", "--force", given=stream)
        return Commit(made.decode().strip(), seconds)

    def retag(self, tag: str, files: Mapping[str, Entry], *, branch: str = "main") -> Commit:
        """Move a tag to a new commit, as an author does who thinks that nobody saw the old one."""
        return self.commit(files, tag, branch=branch)

    def branch(self, name: str, at: str = "refs/heads/main") -> None:
        """A branch that begins at a commit."""
        self.git("branch", "--force", name, at)

    def _has(self, ref: str) -> bool:
        return bool(self.git("for-each-ref", ref))


def _commit(
    ref: str, seconds: int, files: Mapping[str, Entry], parent: str | None, mark: int = 1
) -> Iterator[bytes]:
    yield f"commit {ref}\nmark :{mark}\n".encode()
    yield b"author %s %d +0000\ncommitter %s %d +0000\ndata 2\nc\n" % (WHO, seconds, WHO, seconds)
    if parent is not None:
        yield f"from {parent if parent.startswith(':') else parent + '^0'}\n".encode()
    for name, entry in files.items():
        yield from _entry(name, entry)
    yield b"\n"


def _entry(name: str, entry: Entry) -> Iterator[bytes]:
    if entry is None:
        yield f"D {name}\n".encode()
        return
    if isinstance(entry, Submodule):
        yield f"M 160000 {entry.commit} {name}\n".encode()
        return
    mode, content = "100644", entry
    if isinstance(entry, Link):
        mode, content = "120000", entry.target
    elif isinstance(entry, Executable):
        mode, content = "100755", entry.content
    data = content.encode() if isinstance(content, str) else content
    assert isinstance(data, bytes)
    yield f"M {mode} inline {name}\ndata {len(data)}\n".encode()
    yield data
    yield b"\n"


def _tag(name: str, at: str, annotated: int | None) -> bytes:
    if annotated is None:
        return f"reset refs/tags/{name}\nfrom {at}\n\n".encode()
    return b"tag %s\nfrom %s\ntagger %s %d +0000\ndata 1\nt\n" % (name.encode(), at.encode(), WHO, annotated)


Asked = tuple[str, str]
"""A module path and a version, or a query of one."""


@dataclass
class Shape:
    """A repository with what can be asked of it."""

    repository: Repository
    module: str
    versions: list[Asked] = field(default_factory=list)
    """Canonical versions of which there is a zip."""


def gomod(module: str, go: str = "1.21", more: str = "") -> str:
    """A go.mod."""
    return f"module {module}\n\ngo {go}\n{more}"


def _plain(module: str, **more: Entry) -> dict[str, Entry]:
    return {"go.mod": gomod(module), "m.go": "package m\n", **more}


def root(at: Repository, module: str) -> list[Asked]:
    """A module at the root: lightweight and annotated tags, a pre-release, tags that are no versions."""
    at.commit(_plain(module, LICENSE="Do what you like.\n"), "v1.0.0", "junk", "v1.3")
    at.commit({"m.go": "package m\n\nconst A = 1\n"}, "v1.1.0", annotated=True)
    at.commit({"run.sh": Executable(b"#!/bin/sh\n")}, "v1.2.0-rc.1")
    return [(module, version) for version in ("v1.0.0", "v1.1.0", "v1.2.0-rc.1")]


def subdirectory(at: Repository, module: str) -> list[Asked]:
    """A module below the root, which gets the root's LICENSE."""
    inner: dict[str, Entry] = {f"sub/dir/{name}": text for name, text in _plain(f"{module}/sub/dir").items()}
    at.commit({**_plain(module), **inner, "LICENSE": "The root's.\n"}, "v1.0.0", "sub/dir/v0.1.0")
    at.commit({"sub/dir/LICENSE": "Its own.\n"}, "sub/dir/v0.2.0")
    return [(module, "v1.0.0"), (f"{module}/sub/dir", "v0.1.0"), (f"{module}/sub/dir", "v0.2.0")]


def major(at: Repository, module: str) -> list[Asked]:
    """A second major version at the root of a branch, and a third in a directory."""
    at.commit(_plain(module), "v1.0.0")
    at.commit({"go.mod": gomod(f"{module}/v2")}, "v2.0.0", branch="v2", since="refs/heads/main")
    at.commit({f"v3/{name}": text for name, text in _plain(f"{module}/v3").items()}, "v3.0.0")
    return [(module, "v1.0.0"), (f"{module}/v2", "v2.0.0"), (f"{module}/v3", "v3.0.0")]


def incompatible(at: Repository, module: str) -> list[Asked]:
    """Versions from before modules: no go.mod, and 2.0.0 without a /v2."""
    at.commit({"m.go": "package m\n"}, "v1.0.0")
    at.commit({"m.go": "package m\n\nconst A = 1\n"}, "v2.0.0")
    return [(module, "v1.0.0"), (module, "v2.0.0+incompatible")]


def branches(at: Repository, module: str) -> list[Asked]:
    """What has no tag: the tip of main, and that of ``feature``."""
    at.commit(_plain(module), "v1.0.0")
    tip = at.commit({"m.go": "package m\n\nconst A = 1\n"})
    side = at.commit({"f.go": "package m\n\nconst F = 1\n"}, branch="feature", since="refs/tags/v1.0.0")
    return [(module, tip.pseudo("v1.0.0")), (module, side.pseudo("v1.0.0"))]


def symlinks(at: Repository, module: str) -> list[Asked]:
    """Links, which no zip has: to a file, to a directory, out of the repository."""
    links = {"link.go": Link("m.go"), "sub/up": Link(".."), "out": Link("/etc/passwd")}
    at.commit({**_plain(module), "sub/s.go": "package sub\n", **links}, "v1.0.0")
    return [(module, "v1.0.0")]


def vendored(at: Repository, module: str) -> list[Asked]:
    """Directories named vendor: which of their files belong to it depends on the go line."""
    tree = {
        "vendor/modules.txt": "# example.com/x v1.0.0\n",
        "vendor/example.com/x/x.go": "package x\n",
        "vendor/v.go": "package vendor\n",
        "sub/vendor/modules.txt": "",
        "sub/vendor/y/y.go": "package y\n",
        "sub/vendor/z.go": "package vendor\n",
    }
    at.commit({**_plain(module), **tree}, "v1.0.0")
    at.commit({"go.mod": gomod(module, "1.24")}, "v1.1.0")
    return [(module, "v1.0.0"), (module, "v1.1.0")]


def nested(at: Repository, module: str) -> list[Asked]:
    """A module in another's directory, which is not part of it."""
    inner: dict[str, Entry] = {f"inner/{name}": text for name, text in _plain(f"{module}/inner").items()}
    at.commit({**_plain(module), **inner}, "v1.0.0", "inner/v1.0.0")
    return [(module, "v1.0.0"), (f"{module}/inner", "v1.0.0")]


def crlf(at: Repository, module: str) -> list[Asked]:
    """Line ends that a checkout might change, with attributes that say so."""
    text = {"a.txt": b"one\r\ntwo\r\n", "b.txt": b"one\ntwo\n", ".gitattributes": "b.txt text eol=crlf\n"}
    at.commit({**_plain(module), **text}, "v1.0.0")
    return [(module, "v1.0.0")]


def exported(at: Repository, module: str) -> list[Asked]:
    """Attributes that change what ``git archive`` makes."""
    attributes = "id.txt export-subst\nhidden.txt export-ignore\nhidden/ export-ignore\n"
    tree = {"id.txt": "$Format:%H %d$\n", "hidden.txt": "here\n", "hidden/h.go": "package hidden\n"}
    at.commit({**_plain(module), ".gitattributes": attributes, **tree}, "v1.0.0")
    return [(module, "v1.0.0")]


def submodule(at: Repository, module: str) -> list[Asked]:
    """Another repository within, which no zip has; its URL leads where nobody should go."""
    settings = '[submodule "deps"]\n\tpath = deps\n\turl = https://elsewhere.example/deps.git\n'
    at.commit({**_plain(module), ".gitmodules": settings, "deps": Submodule("1" * 40)}, "v1.0.0")
    return [(module, "v1.0.0")]


POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:317b2c1814d667b11e4b59914cc7d394f97371dcd94fd636beafbb3f015e0b7e\nsize 54802\n"
)


def lfs(at: Repository, module: str) -> list[Asked]:
    """A pointer in place of a large file."""
    attributes = "*.bin filter=lfs diff=lfs merge=lfs -text\n"
    at.commit({**_plain(module), ".gitattributes": attributes, "x.bin": POINTER}, "v1.0.0")
    return [(module, "v1.0.0")]


def retracted(at: Repository, module: str) -> list[Asked]:
    """Three versions, two of which the latest takes back."""
    at.commit(_plain(module), "v1.0.0")
    at.commit({"m.go": "package m\n\nconst A = 1\n"}, "v1.1.0")
    at.commit({"go.mod": gomod(module, more="\nretract [v1.0.0, v1.1.0] // too early\n")}, "v1.2.0")
    return [(module, version) for version in ("v1.0.0", "v1.1.0", "v1.2.0")]


def untagged(at: Repository, module: str) -> list[Asked]:
    """A module that never had a tag."""
    only = at.commit(_plain(module))
    return [(module, only.pseudo())]


SHAPES: dict[str, Callable[[Repository, str], list[Asked]]] = {
    "root": root,
    "subdirectory": subdirectory,
    "major": major,
    "incompatible": incompatible,
    "branches": branches,
    "symlinks": symlinks,
    "vendored": vendored,
    "nested": nested,
    "crlf": crlf,
    "exported": exported,
    "submodule": submodule,
    "lfs": lfs,
    "retracted": retracted,
    "untagged": untagged,
}
"""Of which each version asked for has a zip."""


def empty(_at: Repository, _module: str) -> list[Asked]:
    """A repository without a commit."""
    return []


def elsewhere(at: Repository, _module: str) -> list[Asked]:
    """The go.mod says another path."""
    at.commit(_plain("example.com/other"), "v1.0.0")
    return []


def newer(at: Repository, module: str) -> list[Asked]:
    """It wants a go that nobody has."""
    at.commit({"go.mod": gomod(module, "1.99"), "m.go": "package m\n"}, "v1.0.0")
    return []


def collision(at: Repository, module: str) -> list[Asked]:
    """Names that some file systems take for one."""
    at.commit({**_plain(module), "A.txt": "A\n", "a.txt": "a\n"}, "v1.0.0")
    return []


def bad_name(at: Repository, module: str) -> list[Asked]:
    """A name that no module may have."""
    at.commit({**_plain(module), "a*b.txt": "x\n"}, "v1.0.0")
    return []


def bad_gomod(at: Repository, module: str) -> list[Asked]:
    """A go.mod that is none."""
    at.commit({"go.mod": f"modul {module}\n(((\n", "m.go": "package m\n"}, "v1.0.0")
    return []


FAULTY: dict[str, Callable[[Repository, str], list[Asked]]] = {
    "empty": empty,
    "elsewhere": elsewhere,
    "newer": newer,
    "collision": collision,
    "bad-name": bad_name,
    "bad-gomod": bad_gomod,
}
"""Of which no version has a zip."""


class Repositories:
    """All repositories of one host: ``GROUP/NAME`` is ``ROOT/GROUP/NAME.git``."""

    def __init__(self, top: Path, host: str = "git.corp.test") -> None:
        self.root = top
        self.host = host

    def add(self, name: str) -> Repository:
        """An empty repository."""
        return Repository(self.root / f"{name}.git")

    def shape(self, shape: str, name: str | None = None) -> Shape:
        """One of the shapes, at ``team/SHAPE`` unless it is given a name."""
        name = name or f"team/{shape}"
        made = Shape(self.add(name), f"{self.host}/{name}")
        made.versions = ({**SHAPES, **FAULTY}[shape])(made.repository, made.module)
        return made

    def versions(self, name: str, count: int) -> Shape:
        """A module with as many versions, v1.0.0, v1.1.0 and so on, each with another file."""
        made = Shape(self.add(name), f"{self.host}/{name}")
        made.repository.commit(_plain(made.module), "v1.0.0")
        for minor in range(1, count):
            made.repository.commit({f"f{minor}.go": f"package m\n\n// {minor}\n"}, f"v1.{minor}.0")
        made.versions = [(made.module, f"v1.{minor}.0") for minor in range(count)]
        return made

    def huge(self, name: str, size: int, *, files: int = 1) -> Shape:
        """A module with ``size`` bytes that no compression makes less, in as many files."""
        made = Shape(self.add(name), f"{self.host}/{name}")
        made.repository.git("config", "core.compression", "0")  # it would take long, for nothing
        tree: dict[str, Entry] = {f"data/{n}.bin": noise(size // files, n) for n in range(files)}
        made.repository.commit({**_plain(made.module), **tree}, "v1.0.0")
        made.versions = [(made.module, "v1.0.0")]
        return made

    def bomb(self, name: str, size: int, copies: int) -> Shape:
        """A module with as many files of ``size`` zeros: hardly anything to fetch, and much to unpack."""
        made = Shape(self.add(name), f"{self.host}/{name}")
        blob = b"blob\nmark :9\ndata %d\n%s\n" % (size, bytes(size))
        tree = b"".join(b"M 100644 :9 data/%d.bin\n" % n for n in range(copies))
        commit = b"".join(_commit("refs/heads/main", FIRST, _plain(made.module), None))
        stream = blob + commit.rstrip(b"\n") + b"\n" + tree + b"\n" + _tag("v1.0.0", ":1", None) + b"done\n"
        made.repository.git("fast-import", "--quiet", "--done", given=stream)
        made.versions = [(made.module, "v1.0.0")]
        return made

    def wide(self, name: str, commits: int, size: int, *, every: int = 10) -> Shape:
        """A module with a history: each commit has ``size`` new bytes of noise, one of ``every`` a tag."""
        made = Shape(self.add(name), f"{self.host}/{name}")

        def stream() -> Iterator[bytes]:
            for number in range(commits):
                files: dict[str, Entry] = {"data/noise.bin": noise(size, number)}
                if not number:
                    files |= _plain(made.module)
                parent = f":{number}" if number else None
                yield from _commit("refs/heads/main", FIRST + DAY * number, files, parent, number + 1)
                if number % every == 0:
                    yield _tag(f"v1.{number // every}.0", f":{number + 1}", None)
            yield b"done\n"

        made.repository.git("fast-import", "--quiet", "--done", given=stream())
        made.repository.made = commits
        made.versions = [(made.module, f"v1.{minor}.0") for minor in range((commits + every - 1) // every)]
        return made


def noise(size: int, seed: int) -> bytes:
    """Bytes that no compression makes less, the same each time."""
    return random.Random(seed).randbytes(size)


def all_shapes(repositories: Repositories, names: Iterable[str] = SHAPES) -> list[Asked]:
    """Make the shapes; every version of them of which there is a zip."""
    return [asked for name in names for asked in repositories.shape(name).versions]
