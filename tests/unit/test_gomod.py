"""go.mod files: whether it is one, and what it retracts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol import gomod, semver
from goproxy_vm.protocol.lines import LONGEST_LINE
from tests.fakes.steps import finish


def check_mod(data: bytes, module: str = "example.com/m") -> None:
    finish(gomod.check_mod(data, module))


def left_of(versions: list[str], mod: bytes) -> list[str]:
    return finish(gomod.not_retracted(versions, finish(gomod.retractions(mod))))


@pytest.mark.parametrize(
    "text",
    [
        "module example.com/m\n",
        'module "example.com/m" // a comment\n',
        "// Deprecated: use v2\nmodule example.com/m\r\n\r\ngo 1.24\r\n",
        "go 1.21\nrequire (\n\tx.org/a v1.0.0\n)\nmodule (\n\texample.com/other\n)\n",
        "module m // of a fork\n\ngo 1.21\n",
        "module m\nrequire (\n\tx.org/a v1.0.0 // indirect\n)\n",
        'module m\nrequire "x.org/a"  v1.0.0\n',
        "module github.com/Orig/x+y/v2\n",
        "module `example.com/m`//comment\n",
        "module\texample.com/m.git \r\n",
        "module(\n// it\n\texample.com/m // is\n)\nrequire x y (\n<\n)\n",
        "// a\u2028b\x0cc\x0bd\x85e\rf\nmodule example.com/m // a\u2029<b>\x1c<c>\r<d>\n",
        "module example.com/m\nretract[v1.0.0,v1.1.0]\n",
        "module x.org/a\ntool x.org/a/c\nretract [v1.0.0, v1.1.0]\nrequire(\n x.org/b v1 // x\n)\nnew 1\n",
    ],
)
def test_go_mod(text: str) -> None:
    check_mod(text.encode())


def test_the_path_asked_for_needs_no_domain() -> None:
    check_mod(b"module unavailable\n", "unavailable")
    with pytest.raises(ContentError, match="nothing else of a"):
        check_mod(b"module unavailable\n", "unavailable/v2")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"// module example.com/m\n",
        b"go 1.24\n",
        b"<!doctype html>\nmodule example.com/m\n",
        b"<html>sign in</html>",
        b'{"module": "example.com/m"}',
        b"\x00" * 100,
        b"\xff\xfemodule x",
        b"PK\x03\x04",
        b"module not found\n",
        b"module unavailable\n",
        b"module temporarily-unavailable\nplease retry\nrequire a token\ngo away\n",
        b"module example.com.\n",
        b"module x.org./a\n",
        b"module ...\n",
        b"module -x.org/a\n",
        "module ex\u00e4mple.com/m\n".encode(),
        b"please log in\nmodule access denied\n",
        b"module\n",
        b"module ()\n",
        b"module (\n)\n",
        b"module (\n\tnot found\n)\n",
        b"module (\n\ta\n\tb\n)\n",
        b"module a (\n)\n",
        b"module (a)\n",
        b"module a\nmodule b\n",
        b"module 'a'\n",
        b'module "a\n',
        b'module "a`\n',
        b'module "a b"\n',
        b"module <gone>\n",
        b"module /a\n",
        b"module a//b\nmodule c\n",
        b"moduleexample.com/m\n",
        b"module example.com/m\x0c\n",
        b"module example.com/m\n\x0crequire x\n",
        b"module example.com/m\nrequire(x\n<y>\n",
    ],
)
def test_no_go_mod(data: bytes) -> None:
    with pytest.raises(ContentError) as refused:
        check_mod(data)
    assert len(refused.value.sentence) < 200


VERSIONS = ["v1.0.0", "v1.1.0", "v1.2.0-rc.1", "v1.2.0", "v1.10.0"]


@pytest.mark.parametrize(
    ("mod", "left"),
    [
        ("", VERSIONS),
        ("retract v1.1.0", ["v1.0.0", "v1.2.0-rc.1", "v1.2.0", "v1.10.0"]),
        ('retract "v1.1.0" // why', ["v1.0.0", "v1.2.0-rc.1", "v1.2.0", "v1.10.0"]),
        ("retract [v1.1.0, v1.2.0]", ["v1.0.0", "v1.10.0"]),
        ("retract[v1.1.0,v1.2.0-rc.1]", ["v1.0.0", "v1.2.0", "v1.10.0"]),
        ("retract (\n\t// all\n\t[ v1.0.0 , v1.2.0 ]\n\n\tv1.10.0\n)", []),
        ("retract(\n v1.0.0\n)\nrequire (\n v1.1.0\n)\n", VERSIONS[1:]),
        ("require (\n\texample.com/retract v1.1.0\n)\nretract x y\nretract\nretracted v1.0.0\n", VERSIONS),
        ("require example.com/x v1.0.0\nreplace v1.0.0 => v1.1.0", VERSIONS),
        ("\ufeff\x00\nretract v1.0.0", VERSIONS[1:]),
    ],
)
def test_retractions(mod: str, left: list[str]) -> None:
    assert left_of(VERSIONS, mod.encode()) == left


def test_a_long_go_mod_is_the_same_in_steps() -> None:
    text = "".join(f"require (\n\texample.com/é{n} v1.0.0 // {'x' * (n % 300)}\n)\n" for n in range(3000))
    check_mod(f"module m\n{text}".encode())
    assert sum(1 for _ in gomod.check_mod(f"module m\n{text}".encode(), "m")) > 100
    for wrong in (text, f"module m\n{text}<html>\n{text}"):
        with pytest.raises(ContentError):
            check_mod(wrong.encode())


@pytest.mark.parametrize("size", [100, 60_000, LONGEST_LINE + 2000, 200_000, 1_000_000])
def test_very_long_lines(size: int) -> None:
    """Of a line only the beginning counts."""
    text = f"// {'é' * size}\nmodule m // {'é' * size}\n// module\n\nrequire (\n{'x' * size}\n)"
    check_mod(text.encode(), "m")
    for wrong in (
        f"// {'module ' * size}\n",
        f"module m\n<html{'x' * size}\n",
        f"module m\n{'x' * 5000}\n<html>",
    ):
        with pytest.raises(ContentError):
            check_mod(wrong.encode(), "m")
    with pytest.raises(ContentError, match="UTF-8"):
        check_mod(b"module m\n// " + b"x" * size + b"\xc3\n")
    mod = f"retract v1.0.0 // {'x' * size}\n// {'x' * size} retract v1.1.0\nretract v1.2.0\n"
    gone = {"v1.0.0", *["v1.2.0"] * (2 * size < gomod.LOOKED_AT)}
    assert left_of(VERSIONS, mod.encode()) == [each for each in VERSIONS if each not in gone]


SPAN = st.tuples(st.integers(0, 30), st.integers(0, 30))


@given(st.lists(SPAN, max_size=20))
def test_spans_are_merged(spans: list[tuple[int, int]]) -> None:
    """As if each version were held against each span."""
    versions = [f"v1.{n}.0" for n in range(31)]
    mod = "".join(f"retract [v1.{low}.0, v1.{high}.0]\n" for low, high in spans).encode()
    assert left_of(versions, mod) == [
        f"v1.{n}.0" for n in range(31) if not any(low <= n <= high for low, high in spans)
    ]


def test_what_is_retracted_is_read_in_steps_and_bounded() -> None:
    """However much there is of it: no more lines, no more bytes, and no longer versions."""
    filling = "// retract\n" * 10_000
    assert sum(1 for _ in gomod.retractions(filling.encode())) > 100
    most = gomod.MOST_RETRACTED
    numbers = list(range(2 * most))
    random.Random(1).shuffle(numbers)
    many = "".join(f"retract v1.{n}.0\n" for n in numbers).encode()
    left = left_of([f"v1.{n}.0" for n in numbers], many)
    assert most - 100 < len(left) <= most
    assert left == [f"v1.{n}.0" for n in numbers if f"v1.{n}.0" in left], "in their order"
    late = b"//\n" * (gomod.LOOKED_AT // 3 + 1) + b"retract v1.0.0\n"
    assert left_of(["v1.0.0"], late) == ["v1.0.0"]
    long = f"v1.0.0-{'x' * 300}"
    assert left_of(["v1.0.0", long], f"retract {long}\nretract v1.0.0\n".encode()) == [long]


def test_each_version_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each span."""
    seen: list[str] = []
    order = semver.order

    def counting(version: str) -> str:
        seen.append(version)
        return order(version)

    retracted = finish(gomod.retractions("".join(f"retract v1.{n}.1\n" for n in range(500)).encode()))
    monkeypatch.setattr(semver, "order", counting)
    versions = [f"v1.{n}.0" for n in range(1000)]
    assert finish(gomod.not_retracted(versions, retracted)) == versions
    assert sorted(seen) == sorted(versions)
    assert sum(1 for _ in gomod.not_retracted(versions, retracted)) == 10


@pytest.mark.parametrize(
    ("mod", "required"),
    [
        ("require a.b/c v1.0.0", [("a.b/c", "v1.0.0")]),
        ("module m.n\nrequire (\n\ta.b/c v1.0.0 // indirect\n\n\tx.y/z/v2 v2.1.0+incompatible\n)\n", None),
        ('require `a.b/c` "v1.0.0"', [("a.b/c", "v1.0.0")]),
        ("// require a.b/c v1.0.0\nreplace a.b/c v1.0.0 => d.e/f v1.0.0\nexclude a.b/c v1.0.0", []),
        ("exclude (\n\ta.b/c v1.0.0\n)\nrequire(\n\ta.b/d v1.0.0\n)", [("a.b/d", "v1.0.0")]),
        ("require a.b/c\nrequire v1.0.0\nrequirea.b/c v1.0.0\n", []),
        ("", []),
    ],
)
def test_requirements(mod: str, required: list[tuple[str, str]] | None) -> None:
    found = finish(gomod.requirements(mod.encode()))
    expected = [("a.b/c", "v1.0.0"), ("x.y/z/v2", "v2.1.0+incompatible")] if required is None else required
    assert found == expected


def test_requirements_without_end() -> None:
    lines = "".join(f"require a.b/m{number} v1.0.0\n" for number in range(gomod.MOST_REQUIRED + 5000))
    assert len(finish(gomod.requirements(lines.encode()))) <= gomod.MOST_REQUIRED
    assert finish(
        gomod.requirements(b"require " + b"a" * (LONGEST_LINE + 9) + b" v1.0.0\nrequire a.b/c v1.0.0")
    ) == [("a.b/c", "v1.0.0")]


@given(st.binary(max_size=300))
def test_requirements_of_anything(data: bytes) -> None:
    for path, version in finish(gomod.requirements(b"require (\n" + data)):
        assert path
        assert version.startswith("v")
