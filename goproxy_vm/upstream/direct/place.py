"""Where runs and clones are, and the certificates that runs are told of."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from goproxy_vm.observe.logs import get_logger

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
)
"""Where systems keep the certificates that they trust, as Go looks for them."""

log = get_logger("upstream")


def vcs_directory(root: Path, *, private: bool) -> Path:
    """Where clones are kept. Those made with credentials are apart: from a clone that is there go takes a
    commit without asking whether the server would give it."""
    return root / ("vcs" if private else "vcs-public")


def make_directories(root: Path) -> None:
    """The directories of clones and of runs, with what is above them (blocking): somebody may remove them
    while the server goes on. OSError."""
    for directory in (root, root / "runs", *(vcs_directory(root, private=each) for each in (True, False))):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)


def make_bundle(ca_file: Path | None, environ: Mapping[str, str], into: Path) -> Path | None:
    """A file with all certificates that are trusted (blocking), as go and git take one only, made unless
    it is there; None where the system's own are all. OSError."""
    named = environ.get("SSL_CERT_FILE", "")
    if ca_file is None and not named:
        return None
    if not into.exists():
        system = next((Path(each) for each in (named, *_BUNDLES) if each and Path(each).is_file()), None)
        made = into.with_name(f"{into.name}.{secrets.token_hex(4)}")
        made.write_bytes(b"\n".join(file.read_bytes() for file in (system, ca_file) if file is not None))
        made.replace(into)
    return into


def remove_tree(directory: Path) -> None:
    """Remove the directory of a run (blocking), whatever rights its files have."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        for path in directory.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.chmod(0o700)
        shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        log.warning("directory of a run not removed", directory=str(directory))
