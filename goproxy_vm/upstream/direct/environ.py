"""The whole environment of the go command. Nothing of this server's own is handed on.

What a variable is for stands beside it; the hash of a zip depends on those of attributes and filters, and the
texts that :mod:`.judge` reads on the language.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from goproxy_vm.upstream.direct.find import PATH

_CONNECT = Path(__file__).with_name("connect.py")

_CONFIG = {
    # No transport but these, whatever leads to another.
    "protocol.allow": "never",
    "protocol.https.allow": "always",
    # Nothing of a repository, or of a .gitconfig, is run.
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "fetch.recurseSubmodules": "no",
    # Nothing goes on by itself behind a fetch.
    "gc.auto": "0",
    "maintenance.auto": "false",
    # Nothing is fetched from where a server says.
    "transfer.bundleURI": "false",
    # What git says of silence, it says in time.
    "http.lowSpeedLimit": "1",
    # Everybody's zip has the same bytes: pointers of LFS stay what they are.
    "core.attributesFile": "/dev/null",
    "filter.lfs.process": "",
    "filter.lfs.smudge": "",
    "filter.lfs.required": "false",
}
"""Configuration that outranks every file."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the environment of one run depends on.

    ``goroot``: the go command's own files; ``run``: the directory of the run; ``home``: HOME; ``private``:
    whether there are credentials; ``page``: the root and the URL of a repository whose go-import page is the
    gate's own, or None;
    ``certificates``: a file with all that are trusted, or None; ``stall``: seconds; ``port``, ``token``,
    ``go_proxy``, ``git_proxy``: the gate.
    """

    goroot: Path
    run: Path
    home: Path
    private: bool
    page: tuple[str, str] | None
    certificates: Path | None
    stall: float
    port: int
    token: str
    go_proxy: str
    git_proxy: str

    def variables(self) -> dict[str, str]:
        """Every variable (blocking: looks for keys)."""
        run, home = str(self.run), str(self.home)
        found = {
            "PATH": f"{self.goroot}/bin:{PATH}",
            "HOME": home,
            "LC_ALL": "C",
            "TMPDIR": str(self.run / "tmp"),
            "XDG_CACHE_HOME": str(self.run / "tmp"),
            "XDG_CONFIG_HOME": f"{run}/config",  # has go's telemetry off: it would start a process that stays
            # No configuration of a user's, no other toolchain, files that can be removed.
            "GOENV": "off",
            "GOWORK": "off",
            "GO111MODULE": "on",
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-modcacherw",
            "GOMAXPROCS": "2",
            "GOROOT": str(self.goroot),
            "GOPATH": f"{run}/gopath",
            "GOMODCACHE": run,
            "GOCACHE": f"{run}/gocache",
            # From version control, and from nowhere else; this server proves what comes.
            "GOPROXY": "direct",
            "GOSUMDB": "off",
            "GONOSUMDB": "",
            "GONOPROXY": "",
            "GOPRIVATE": "",
            "GOVCS": "*:git",
            "GOAUTH": "netrc",
            "GOINSECURE": self.page[0] if self.page else "",
            "HTTPS_PROXY": self.go_proxy,
            "HTTP_PROXY": self.go_proxy,
            "NO_PROXY": "",
            "EGRESS": f"{self.port} {self.token}",
            # Nobody is asked.
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "SSH_ASKPASS": "/bin/false",
            "GCM_INTERACTIVE": "never",
            # The host's own configuration would change what is in a zip.
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_TEMPLATE_DIR": f"{run}/template",  # it is empty: a clone has no hooks, and is small
            "GIT_ALLOW_PROTOCOL": "https:ssh" if self.private else "https",
            "GIT_HTTP_PROXY_AUTHMETHOD": "basic",  # else it asks without first
            "GIT_SSH_COMMAND": self._ssh() if self.private else "/bin/false",
        }
        if self.certificates is not None:  # in place of the system's
            found |= {name: str(self.certificates) for name in ("SSL_CERT_FILE", "GIT_SSL_CAINFO")}
        config = _CONFIG | {
            "protocol.ssh.allow": "always" if self.private else "never",
            "http.lowSpeedTime": str(max(1, round(self.stall))),
            "http.proxy": self.git_proxy,
        }
        settings = [*config.items(), *self._instead()]
        found["GIT_CONFIG_COUNT"] = str(len(settings))
        for index, (key, value) in enumerate(settings):
            found |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
        return found

    def _instead(self) -> list[tuple[str, str]]:
        """Configuration by which git goes to the repository that a setting names where go asks for no page:
        github.com's and some others', and those whose path says .git, it knows by itself. git replaces
        beginnings, the longest that fits: a URL that begins like the module stands for itself."""
        if self.page is None:
            return []
        root, url = self.page
        known = dict.fromkeys(f"https://{each}" for each in (root, root.removesuffix(".git")))
        if url.startswith(tuple(known)):
            known[url] = None
        return [(f"url.{url}.insteadOf", each) for each in known]

    def _ssh(self) -> str:
        """What git calls for ssh, as words for the shell. ssh itself takes its home from the password
        database, so each file has to be named."""
        directory = self.home / ".ssh"
        config = directory / "config"
        keys = sorted(key for key in directory.glob("id_*") if key.suffix != ".pub" and key.is_file())
        connect = " ".join(
            _percent(shlex.quote(each)) for each in (sys.executable, "-I", "-S", str(_CONNECT))
        )
        options = [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={_word(directory / 'known_hosts')}",
            "IdentitiesOnly=yes",
            *(f"IdentityFile={_word(key)}" for key in keys),
            "ConnectTimeout=10",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=2",
            "ControlMaster=no",
            "ControlPath=none",
            "ForwardAgent=no",
            "PermitLocalCommand=no",
            f"ProxyCommand={connect} %h %p",
        ]
        words = ["ssh", "-F", str(config) if config.is_file() else "/dev/null"]
        for option in options:
            words += ["-o", option]
        return shlex.join(words)


def _percent(text: str) -> str:
    """As ssh is told a text in which percent signs have a meaning."""
    return text.replace("%", "%%")


def _word(path: Path) -> str:
    """A path as one word of ssh's configuration."""
    return f'"{_percent(str(path))}"'
