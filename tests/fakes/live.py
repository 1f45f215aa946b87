"""What the scripted server of the ``live`` vectors answered, by the name of the scenario.

The vectors record what real ``go`` commands of nine releases asked for and how they fared; what they were
given is told by the scenarios' names alone. These scripts are checked against the vectors by the real
command (``tests/e2e/test_live_vectors.py``), and stand behind the proxy in the integration tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from goproxy_vm.protocol.dirhash import h1_mod
from tests.fakes.modules import build_zip, raw_zip
from tests.fakes.sumdb import FakeSumdb
from tests.fakes.upstream import Reply
from tests.vectors import vectors

if TYPE_CHECKING:
    from tests.fakes.upstream import FakeUpstream

LIVE: dict[str, Any] = vectors()["live"]
SCENARIOS: dict[str, dict[str, Any]] = {case["scenario"]: case for case in LIVE["scenarios"]}
RELEASES = ("1.15", "1.19", "1.21", "1.22", "1.23", "1.24", "1.25", "1.26", "1.27")

MODULE, VERSION = "example.com/m", "v1.0.0"
M = f"/{MODULE}/@v"
INFO, MOD, ZIP, LIST, LATEST = (
    f"{M}/v1.0.0.info",
    f"{M}/v1.0.0.mod",
    f"{M}/v1.0.0.zip",
    f"{M}/list",
    f"/{MODULE}/@latest",
)
PSEUDO = "v0.0.0-20200101000000-abcdefabcdef"
GOMOD = b"module example.com/m\n"
ZIP_H1 = "h1:SXy42eQ/QbleX7vtuAPFnaM3tNuQnfeo7rulG/p7iOw="
"""Of the module's genuine zip; the vectors have it from the scenario ``wrong zip hash``."""
SUMDB = "/sumdb/sumdb.example.com/log"
LOOKUP = f"{SUMDB}/lookup/{MODULE}@{VERSION}"
LEAVES, TOP = f"{SUMDB}/tile/8/0/001.p/44", f"{SUMDB}/tile/8/1/000.p/1"


def text(body: str | bytes, status: int = 200, content_type: str = "text/plain; charset=utf-8") -> Reply:
    """An answer of a media type that clients may show."""
    data = body.encode() if isinstance(body, str) else body
    return Reply(data, status, {"Content-Type": content_type}, reason=HTTPStatus(status).phrase)


def info(version: str, **fields: object) -> Reply:
    return text(json.dumps({"Version": version, **fields}))


def go_zip(files: Mapping[str, bytes] | None = None) -> Reply:
    return Reply(build_zip(MODULE, VERSION, {"go.mod": GOMOD, "a.go": b"package m\n"} | dict(files or {})))


def elsewhere(prefix: str) -> Reply:
    """A zip with a file of another module version."""
    own = {f"{MODULE}@{VERSION}/go.mod": GOMOD}
    return Reply(raw_zip({**own, f"{prefix}/a.go": b"package m\n"}))


def moved(status: int, to: str) -> Reply:
    return Reply(b"", status, {"Location": to}, reason=HTTPStatus(status).phrase)


def version_files(base: str = "") -> dict[str, Reply]:
    """The version that most scenarios ask for."""
    return {
        f"{base}{INFO}": info(VERSION, Time="2020-01-01T00:00:00Z"),
        f"{base}{MOD}": text(GOMOD),
        f"{base}{ZIP}": go_zip(),
    }


@dataclass(frozen=True)
class Script:
    """One scenario.

    ``replies``: what the server answers, by path; 404 to all else. ``sumdb``: whether clients verify, and the
    base path under which the server carries the database. ``ours``: what the proxy answers to the paths a
    client asks for, where it is not 200. ``goes_on``: refused paths after which clients go on. ``differs``:
    why clients fare differently behind the proxy, where they do, and the releases that do. ``asks``: what to
    ask where the vectors record no request.
    """

    replies: Mapping[str, Reply]
    sumdb: str | None = None
    ours: Mapping[str, int] = field(default_factory=dict)
    goes_on: tuple[str, ...] = ()
    differs: str = ""
    differing: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    nosumdb: str = ""

    def on(self, upstream: FakeUpstream) -> None:
        """Have an upstream follow the script."""
        absent = text("not found", 404)
        upstream.on("*", absent)
        if self.sumdb is not None:
            carry(upstream, self.sumdb)
        for path, reply in self.replies.items():
            upstream.on(path, reply)


def database() -> FakeSumdb:
    """A log of 300 records whose last one is the module's."""
    fake = FakeSumdb.make(299)
    fake.add(MODULE, VERSION, ZIP_H1, h1_mod(GOMOD))
    return fake


def carry(upstream: FakeUpstream, base: str) -> None:
    fake = database()

    def answer(path: str) -> Reply:
        status, body = fake.answer(path.removeprefix(f"{base}{SUMDB}/"))
        return text(body, status)

    upstream.on(f"{base}{SUMDB}/*", answer)


def _redirected_to_nothing() -> dict[str, Reply]:
    return {f"{SUMDB}/supported": moved(301, f"{SUMDB}/latest"), f"{SUMDB}/latest": text("x", 404)}


def _without_partial_tiles() -> dict[str, Reply]:
    fake = database()
    grown = FakeSumdb.make(299)
    grown.log.append(fake.log.texts[299])
    for number in range(300, 512):
        grown.log.append(fake.log.texts[number % 299])
    gone = Reply(b"", 404, reason="Not Found")
    return {
        **version_files(),
        f"{SUMDB}/tile/*": gone,
        f"{SUMDB}/tile/8/0/000": text(fake.body("tile/8/0/000")),
        f"{SUMDB}/tile/8/0/001": text(grown.body("tile/8/0/001")),
    }


def _status(code: int) -> Script:
    body = "" if code in (204, 304) else "why: no\nsecond line"
    reply = text(body, code)
    files = {**version_files(), **version_files("/2")}
    if code == 410:
        return Script({**files, INFO: reply, MOD: reply, ZIP: reply})
    return Script({**files, INFO: reply}, ours={INFO: 403 if code in (401, 403) else 502})


def _info(reply: Reply, status: int = 200) -> Script:
    return Script({**version_files(), INFO: reply}, ours={INFO: status})


def _zip(reply: Reply) -> Script:
    return Script({**version_files(), ZIP: reply}, ours={ZIP: 502})


def _sumdb(
    replies: Mapping[str, Reply] | None = None, ours: Mapping[str, int] | None = None, **more: Any
) -> Script:
    return Script({**version_files(), **(replies or {})}, sumdb="", ours=ours or {}, **more)


def _supported(code: int) -> Script:
    return _sumdb({f"{SUMDB}/supported": text("b", code)}, differs=OWN_SUPPORTED, differing=RELEASES)


TAGLESS = {LATEST: info(PSEUDO), f"{M}/{PSEUDO}.mod": text(GOMOD), f"{M}/{PSEUDO}.info": info(PSEUDO)}
LISTED = {LIST: text("v1.0.0\n"), **version_files()}
OWN_SUPPORTED = "the proxy says itself that it mirrors the database, and proves with any carrier's answers"
META = f"{M}/v1.0.0+meta.info"
FAILED_INFO = {INFO: 502}
UNPROVEN = {MOD: 502, LOOKUP: 502}
NO_TREE = UNPROVEN | {LEAVES: 502, TOP: 502, f"{SUMDB}/tile/8/0/001": 404, f"{SUMDB}/tile/8/1/000": 404}
"""Where tiles are missing nothing can be proven, and tiles wider than the log are not in it."""

SCRIPTS: dict[str, Script] = {
    "list nonempty": Script(LISTED),
    "list empty, latest ok": Script({LIST: text(""), **TAGLESS}),
    "list empty, latest 404": Script({LIST: text("")}, ours={LATEST: 404}),
    "list empty, latest 500": Script({LIST: text(""), LATEST: text("boom", 500)}, ours={LATEST: 502}),
    "list empty, latest 404, 2nd proxy has it": Script(
        {LIST: text(""), **version_files("/2"), f"/2{LIST}": text("v1.0.0\n"), f"/2{LATEST}": info(VERSION)},
        differs="the proxy asks its second upstream for what the first does not have, file by file",
        differing=RELEASES,
    ),
    "list 404 only": Script({}, ours={LIST: 404}),
    "list has only pseudo, latest 404": Script(
        {**TAGLESS, LIST: text(f"{PSEUDO}\n"), LATEST: text("x", 404)}, ours={LATEST: 404}, goes_on=(LATEST,)
    ),
    "list has v1 shorthand only": Script(
        {LIST: text("v1\n"), f"{M}/v1.info": info("v1")}, ours={f"{M}/v1.info": 502}
    ),
    "list no final newline": Script({**LISTED, LIST: text("v1.0.0")}),
    "list incompatible with v1 gomod": Script(
        {
            **LISTED,
            LIST: text("v1.0.0\nv2.0.0+incompatible\n"),
            f"{M}/v2.0.0+incompatible.info": info("v2.0.0+incompatible"),
            f"{M}/v2.0.0+incompatible.mod": text(GOMOD),
        }
    ),
    "list html": Script(
        {**LISTED, LIST: text("<html>hello</html>\n"), LATEST: info(VERSION)},
        ours={LIST: 502},
        differs="a page is no list: it would replace a good one",
        differing=RELEASES,
    ),
    "query v1": Script(LISTED),
    "query v1.0": Script(LISTED),
    "query branch Upper": Script({**TAGLESS, f"{M}/!my!branch.info": info(PSEUDO)}),
    "query branch slash": Script({}, asks=(f"{M}/feat/x.info",), ours={f"{M}/feat/x.info": 404}),
    "query branch returns noncanonical": Script(
        {f"{M}/master.info": info("master")},
        ours={f"{M}/master.info": 502},
        differs="the proxy holds a query's answer to the rule of later releases (case 16a)",
        differing=("1.15",),
    ),
    "query v1.0.0+meta": Script(
        LISTED, ours={f"{M}/v1.0.0+meta.info": 404}, goes_on=(f"{M}/v1.0.0+meta.info",)
    ),
    "info mismatch": _info(info("v1.0.1"), 502),
    "info no Version": _info(text('{"Time":"2020-01-01T00:00:00Z"}'), 502),
    "info Time null": _info(info(VERSION, Time=None)),
    "info bad Time": _info(info(VERSION, Time="2020-01-01"), 502),
    "info lowercase keys": _info(text('{"version":"v1.0.0","time":"2020-01-01T00:00:00Z"}')),
    "info extra": _info(info(VERSION, Extra={"a": [1]}, Origin={"VCS": "git"})),
    "info trailing garbage": _info(text('{"Version":"v1.0.0"}x'), 502),
    "info array": _info(text("[]"), 502),
    "info Origin string": Script(
        {**version_files(), INFO: info(VERSION, Origin="x")},
        ours={INFO: 502},
        differs="the proxy holds Origin to the rule of later releases",
        differing=("1.15",),
    ),
    **{
        f"info status {code} comma": _status(code)
        for code in (201, 203, 204, 300, 304, 401, 403, 410, 429, 502, 503)
    },
    "refused pipe": Script(version_files("/2")),
    "refused comma": Script(version_files("/2"), asks=(INFO,), ours=FAILED_INFO),
    "zip 500 after info ok, comma": Script(
        {**version_files(), **version_files("/2"), ZIP: text("z", 500)}, ours={ZIP: 502}
    ),
    "err text/html": _info(text("<b>no</b>", 500, "text/html"), 502),
    "err control char": _info(text("a\x01b", 500), 502),
    "err json": _info(text('{"error":"no"}', 500, "application/json"), 502),
    "err 10 lines": _info(text("".join(f"line {n}\n" for n in range(1, 11)), 500), 502),
    "err long line": _info(text("x" * 2000, 500), 502),
    "zip short valid CL": _zip(Reply(go_zip().body[:100])),
    "zip empty": _zip(Reply(b"")),
    "zip wrong prefix": _zip(elsewhere(f"{MODULE}@v1.0.1")),
    "zip prefix of subpath": _zip(elsewhere(f"{MODULE}x@v1.0.0")),
    "zip nested go.mod": _zip(go_zip({"s/go.mod": b"module s\n"})),
    "zip 206": _zip(Reply(go_zip().body, 206, reason="Partial Content")),
    "mod html": Script(
        {**version_files(), MOD: text("<html></html>", 200, "text/html")},
        ours={MOD: 502},
        differs="a page is no .mod: it would be the one first seen",
        differing=RELEASES,
    ),
    "mod differs from zip": Script({**version_files(), MOD: text(GOMOD + b"// other\n")}),
    **{
        f"redirect {code} zip": Script({**version_files(), ZIP: moved(code, "/blob"), "/blob": go_zip()})
        for code in (302, 303, 308)
    },
    "redirect loop": _zip(moved(302, ZIP)),
    "ok": _sumdb(),
    "supported 200": _sumdb(),
    "supported 206": _supported(206),
    "supported 301": _sumdb(_redirected_to_nothing(), differs=OWN_SUPPORTED, differing=RELEASES),
    "supported 403": _supported(403),
    "supported 404": _supported(404),
    "supported 500": _supported(500),
    "supported 503": _supported(503),
    "supported 500 on first comma": Script(
        {**version_files("/1"), f"/1{SUMDB}/*": Reply(b"", 500, reason="Internal Server Error")},
        sumdb="/2",
        differs=OWN_SUPPORTED,
        differing=RELEASES,
    ),
    "supported 500 on first pipe": Script(
        {**version_files("/1"), f"/1{SUMDB}/*": Reply(b"", 500, reason="Internal Server Error")}, sumdb="/2"
    ),
    "lookup 410": _sumdb({LOOKUP: text("gone: x", 410)}, UNPROVEN),
    "lookup 500": _sumdb({LOOKUP: text("err", 500)}, UNPROVEN),
    "tile full 404": _sumdb({f"{SUMDB}/tile/8/0/001": text("x", 404)}),
    "partial tile 404, full tile absent too": _sumdb(
        {LEAVES: text("x", 404), f"{SUMDB}/tile/8/0/001": text("x", 404)}, NO_TREE
    ),
    "partial tiles 404, level-0 full tile served, level-1 full tile absent": _sumdb(
        _without_partial_tiles(), NO_TREE
    ),
    "tile too short": _sumdb({LEAVES: text(bytes(32))}, NO_TREE),
    "lookup other record (zero lines)": _sumdb(
        {LOOKUP: text(database().lookup(3))},
        UNPROVEN | {ZIP: 502},
        differs="the proxy never takes another version's record for proof (PROTOCOL §4, rule 5)",
        differing=RELEASES[:7],
    ),
    "wrong zip hash": _sumdb({ZIP: go_zip({"a.go": b"package evil\n"})}, {ZIP: 502}),
    "GONOSUMDB": _sumdb(nosumdb="example.com/*"),
    "GOPRIVATE": _sumdb(nosumdb="example.com"),
    "GOFLAGS=-insecure": _sumdb(
        {f"{SUMDB}/supported": Reply(b"", 500, reason="Internal Server Error")},
        differs=OWN_SUPPORTED,
        differing=RELEASES,
    ),
    "get -insecure": _sumdb(
        ours={"/example.com/@v/v1.0.0.info": 404, "/example.com/@v/v1.0.0.zip": 404},
        goes_on=("/example.com/@v/v1.0.0.info", "/example.com/@v/v1.0.0.zip"),
    ),
    "plus in path": Script(
        {
            f"/example.com/c++/@v/v1.0.0{path}": reply
            for path, reply in ((".info", info(VERSION)), (".mod", text(GOMOD)), (".zip", go_zip()))
        },
        asks=("/example.com/c++/@v/v1.0.0.info",),
        ours={f"/example.com/c++/@v/v1.0.0{path}": 404 for path in (".info", ".mod", ".zip")},
    ),
    "tilde short name": Script(
        {
            f"/example.com/x~1/@v/v1.0.0{path}": reply
            for path, reply in ((".info", info(VERSION)), (".mod", text(GOMOD)), (".zip", go_zip()))
        },
        asks=("/example.com/x~1/@v/v1.0.0.info",),
        ours={f"/example.com/x~1/@v/v1.0.0{path}": 404 for path in (".info", ".mod", ".zip")},
    ),
}
