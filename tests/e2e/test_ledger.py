"""Who got what outlives the server, also where it is killed; as the command line tells it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.e2e.gocommand import Running, serving, start
from tests.e2e.upstream_thread import UpstreamThread

M, V = "example.com/m", "v1.0.0"


def get(server: Running, version: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{server.url}/{M}/@v/{version}.zip", timeout=30) as answer:
        assert answer.status == 200
        answer.read()


def command(cache: Path, *argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "goproxy_vm", *argv, "--cache-dir", str(cache)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def versions(cache: Path) -> dict[str, int]:
    items = json.loads(command(cache, "what", "127.0.0.1", "--json"))["items"]
    return {each["version"]: each["count"] for each in items}


def test_killed(tmp_path: Path) -> None:
    """What was told or is older than 30 s is there afterwards; what is newer may be lost."""
    cache = tmp_path / "cache"
    with UpstreamThread() as upstream:
        for version in (V, "v1.1.0"):
            upstream.fake.add_module(M, version)
        arguments = ("--upstream", upstream.url, "--sumdb", "off", "--min-free", "0")
        server = start(cache, *arguments)
        try:
            get(server, V)
            assert versions(cache) == {V: 1}
            get(server, "v1.1.0")
        finally:
            server.process.kill()
            server.process.communicate()
        with serving(cache, *arguments) as server:
            assert versions(cache) in ({V: 1}, {V: 1, "v1.1.0": 1})
            get(server, V)
            assert versions(cache)[V] == 2
            get(server, V)
        with serving(cache, *arguments):
            assert versions(cache)[V] == 3, "a stop writes what is left"
            lines = command(cache, "who", f"{M}@{V}", "--since", "1h").splitlines()
            assert lines[1].split()[:2] == ["127.0.0.1", V]
            assert lines[-1] == "1 of 1 pair of client and version, 1 client"
