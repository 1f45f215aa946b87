"""The examples of docs/reverse-proxies.md at work: TLS, HTTP/2, the real ``go``, and paths as they came."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from goproxy_vm.config import load
from goproxy_vm.web import connection
from tests.e2e.gocommand import Vm, serving
from tests.e2e.upstream_thread import UpstreamThread

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PAGE = (Path(__file__).parents[2] / "docs" / "reverse-proxies.md").read_text()
COMMANDS = {
    "nginx": ["nginx", "-c", "{file}", "-p", "{folder}", "-e", "{folder}/error.log"],
    "haproxy": ["haproxy", "-db", "-f", "{file}"],
    "caddyfile": ["caddy", "run", "--adapter", "caddyfile", "--config", "{file}"],
}
AROUND = {
    "nginx": """
daemon off; pid {folder}/pid; error_log stderr; events {{}}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {example}
}}
""",
    "haproxy": "{example}",
    "caddyfile": "{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{example}",
}
"""What the distributions' own files have around the example."""
CAPITALS = "example.com/Upper/lib"
PATHS = [
    "/example.com/%21upper/lib/@v/list",
    "/example.com/!upper/lib/@v/v1.0.0.info",
    "/example.com/!upper/lib/@v/v1.0.0.mod",
    "/example.com/old/@v/v2.0.0+incompatible.info",
    "/example.com/old/@v/v2.0.0%2Bincompatible.info",
    "/example.com/%2521upper/lib/@v/list",
    "/example.com//old/@v/list",
    "/example.com/old/@v/../@v/list",
    "/example.com%2Fold/@v/list",
    "/example.com/Upper/lib/@v/list",
    "/example.com/nothing/@v/list",
    "/healthz",
]


def example(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@dataclass
class Front:
    """A reverse proxy at work."""

    port: int
    authority: Path

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of the answer to a raw path."""
        context = ssl.create_default_context(cafile=str(self.authority))
        client = http.client.HTTPSConnection("localhost", self.port, context=context, timeout=30)
        with contextlib.closing(client):
            client.request("GET", path)
            got = client.getresponse()
            return got.status, got.read().decode()


def certify(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return pem, secret


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def proxied(language: str, url: str, folder: Path) -> Iterator[Front]:
    """The page's example in front of the server at ``url``, on loopback."""
    program, *arguments = COMMANDS[language]
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    folder.mkdir()
    pem, secret = certify(folder)
    both = folder / "both.pem"
    both.write_text(pem.read_text() + secret.read_text())
    port = free_port()
    text = example(language)
    replaced = {
        "127.0.0.1:8080": url.removeprefix("http://"),
        "/etc/ssl/goproxy.example.both.pem": str(both),
        "/etc/ssl/goproxy.example.pem": str(pem),
        "/etc/ssl/goproxy.example.key": str(secret),
        "192.168.122.0/24": "127.0.0.0/8",
        "listen 443": f"listen 127.0.0.1:{port}",
        "bind :443": f"bind 127.0.0.1:{port}",
        "goproxy.example {": f"https://localhost:{port} {{\n\tbind 127.0.0.1",
        "server_name goproxy.example": "server_name localhost",
    }
    for old, new in replaced.items():
        text = text.replace(old, new)
    file = folder / "configuration"
    file.write_text(AROUND[language].format(example=text, folder=folder))
    command = [found, *(each.format(file=file, folder=folder) for each in arguments)]
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    environ |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        try:
            wait_for(process, port, folder / "log")
            yield Front(port, pem)
        finally:
            process.terminate()
            process.wait(30)


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)


@pytest.fixture
def upstream() -> Iterator[UpstreamThread]:
    with UpstreamThread() as thread:
        thread.fake.add_module(CAPITALS, "v1.0.0")
        thread.fake.add_module("example.com/old", "v2.0.0+incompatible", {"p.go": b"package p\n"})
        yield thread


@pytest.mark.parametrize("language", COMMANDS)
def test_the_example_serves_go(
    language: str, upstream: UpstreamThread, tmp_path: Path, gocache: Path
) -> None:
    trusted = ("--trusted-proxies", "127.0.0.0/8", "--access-log", "all")
    arguments = ("--upstream", upstream.url, "--sumdb", "off", *trusted)
    with (
        serving(tmp_path / "cache", *arguments) as server,
        proxied(language, server.url, tmp_path / "proxy") as front,
    ):
        trust = {"SSL_CERT_FILE": str(front.authority)}
        vm = Vm(tmp_path / "vm", f"https://localhost:{front.port}", gocache, env=trust)
        vm.write({"go.mod": "module example.com/program\n\ngo 1.21\n"})
        vm.go("get", f"{CAPITALS}@latest", "example.com/old@v2.0.0+incompatible")
        assert "all modules verified" in vm.go("mod", "verify").stdout
        failed = vm.go("get", "example.com/nothing@v1.0.0", ok=False).stderr
        assert "goproxy-vm: example.com/nothing" in failed  # our sentence, not a page of the proxy's
        assert "[request " in failed
        status, page = front.get("/")
        assert (status, f"go env -w GOPROXY=https://localhost:{front.port}<" in page) == (200, True)


@pytest.mark.parametrize("language", COMMANDS)
def test_paths_arrive_as_they_came(language: str, upstream: UpstreamThread, tmp_path: Path) -> None:
    with (
        serving(tmp_path / "cache", "--upstream", upstream.url, "--sumdb", "off") as server,
        proxied(language, server.url, tmp_path / "proxy") as front,
    ):
        address = server.url.removeprefix("http://")
        for path in PATHS:
            client = http.client.HTTPConnection(address, timeout=30)
            with contextlib.closing(client):
                client.request("GET", path)
                got = client.getresponse()
                direct = got.status, got.read().decode()
            through = front.get(path)
            assert (through[0], said(through[1])) == (direct[0], said(direct[1])), path


def said(text: str) -> str:
    """A body, without the number of the request."""
    return re.sub(r"\[request \w+\]", "", text)


def test_times_are_those_of_the_settings() -> None:
    settings = load({}, {"CACHE_DIRECTORY": "/c"}, None).settings
    assert settings.total_timeout == 30 * 60
    for waits in ("proxy_read_timeout 35m", "timeout server 35m"):
        assert waits in PAGE
    assert f"less than {connection.IDLE:.0f} s" in PAGE
    assert f"`max_misses` ({settings.max_misses}): {settings.max_misses // 4} fetches" in PAGE
    assert f"`max_client_connections` ({settings.max_client_connections})" in PAGE


def test_traefiks_example_is_yaml() -> None:
    static, dynamic = (
        yaml.safe_load(each) for each in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    )
    (router,) = dynamic["http"]["routers"].values()
    assert set(router["entryPoints"]) <= set(static["entryPoints"])
    assert router["service"] in dynamic["http"]["services"]
    assert set(router["middlewares"]) <= set(dynamic["http"]["middlewares"])
