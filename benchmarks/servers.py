"""Servers to measure side by side: ours, nginx, a plain aiohttp application. One core for the server."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

SERVER_CORE, CLIENT_CORE = "0", "1"
NGINX = """
daemon off; master_process off; worker_processes 1; worker_rlimit_nofile 100000;
pid {root}/pid; error_log stderr crit;
events {{ worker_connections 2048; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;
  default_type application/octet-stream;
  {kept}
  client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
  uwsgi_temp_path {root}/u;
  scgi_temp_path {root}/s;
  server {{ listen 127.0.0.1:{port} backlog=1024; root {tree}; }}
}}
"""


@dataclass
class Target:
    """A running server."""

    name: str
    url: str
    pid: int | None
    admin: str = ""
    """The admin listener, of ours."""

    def cpu(self) -> float:
        """Seconds of CPU that the process has used so far; 0 for a server that is not ours to look at."""
        if self.pid is None:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settled(self) -> float:
        """Wait until the background work of its start is done, and takes no more CPU; so many seconds."""
        started = time.monotonic()
        before = -1.0
        while (now := self.cpu()) - before > 0.02:
            before = now
            time.sleep(1)
        return time.monotonic() - started

    def resident(self) -> int:
        """Bytes of memory in use."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def fetch(url: str) -> bytes:
    """The body of a 200 answer."""
    with urllib.request.urlopen(url, timeout=60) as response:  # loopback only
        return bytes(response.read())


@contextmanager
def running(
    name: str,
    command: list[str],
    port: int,
    core: str = SERVER_CORE,
    to: Path | None = None,
    environ: dict[str, str] | None = None,
) -> Iterator[Target]:
    """A server process on its core, ended afterwards; ``to``: where its log goes; ``environ``: added."""
    log = to.open("w+b") if to is not None else tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
    process = subprocess.Popen(
        ["taskset", "-c", core, *command], stdout=log, stderr=log, env={**os.environ, **(environ or {})}
    )
    try:
        for _ in range(400):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"{name} did not start: {log.read().decode()[-2000:]}") from None
                time.sleep(0.05)
        yield Target(name, f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait(60)
        log.close()


@contextmanager
def ours(
    cache: Path,
    upstream: str,
    *options: str,
    core: str = SERVER_CORE,
    log: Path | None = None,
    environ: dict[str, str] | None = None,
    before: Sequence[str] = (),
    python: str = sys.executable,
) -> Iterator[Target]:
    """goproxy_vm on a cache directory; ``before``: a command that becomes the server; ``python``: of the
    environment that it is installed in."""
    port, admin = free_port(), free_port()
    command = [*before, str(Path(python).with_name("goproxy-vm")), "serve", "--listen", f"127.0.0.1:{port}"]
    command += ["--admin-listen", f"127.0.0.1:{admin}", "--cache-dir", str(cache), "--upstream", upstream]
    with running("goproxy_vm", [*command, *options], port, core, log, environ) as target:
        target.admin = f"http://127.0.0.1:{admin}"
        yield target


@contextmanager
def peer(command: str, cache: Path, upstream: str, core: str, environ: dict[str, str]) -> Iterator[Target]:
    """Another GOPROXY server: NAME=COMMAND with ``{address}`` and ``{cache}``; its upstream is in GOPROXY."""
    port = free_port()
    name, _, words = command.partition("=")
    given = [word.format(address=f"127.0.0.1:{port}", cache=cache) for word in shlex.split(words)]
    with running(name, given, port, core, environ={**environ, "GOPROXY": upstream}) as target:
        yield target


@contextmanager
def far(milliseconds: float) -> Iterator[dict[str, str]]:
    """The environment of those for whom all upstreams are so much further away (0: as far as they are)."""
    if not milliseconds:
        yield {}
        return
    port = free_port()
    with running("far", [sys.executable, "-m", "benchmarks.far", str(port), str(milliseconds)], port) as road:
        yield {"HTTPS_PROXY": road.url, "https_proxy": road.url}


@contextmanager
def nginx(tree: Path, kept: int = 10_000) -> Iterator[Target]:
    """nginx as a static server of a tree, one process, no log; ``kept``: files that it keeps open."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(binary).exists():
        raise SystemExit("nginx is needed to compare with (Debian: nginx-light)")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tree.chmod(0o755)
        port = free_port()
        keeps = f"open_file_cache max={kept}; open_file_cache_valid 60s;" if kept else ""
        (root / "conf").write_text(NGINX.format(root=root, tree=tree, port=port, kept=keeps))
        command = [binary, "-c", str(root / "conf"), "-e", str(root / "err"), "-p", str(root)]
        yield stack.enter_context(running("nginx", command, port))


@contextmanager
def plain(tree: Path) -> Iterator[Target]:
    """A plain aiohttp application: small files from memory, large ones by FileResponse."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.plain", str(port), str(tree)]
    with running("plain aiohttp", command, port) as target:
        yield target
