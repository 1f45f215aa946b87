"""docs/vms.md: what is to be copied from it is sound, and what it says of the script is true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from goproxy_vm import cli
from goproxy_vm.web.setup import PATH

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "vms.md").read_text()
SCRIPTS = ROOT / "goproxy_vm" / "web"
SCRIPT = (SCRIPTS / "setup.sh").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """What the page would have one type, cloud-init and Vagrant run."""
    consoles = re.findall(r"^[$#] (.*?)(?=^[$#] |\Z)", "".join(blocks("console")), re.MULTILINE | re.DOTALL)
    (vagrant,) = re.findall(r"<<~SHELL\n(.*?)^ *SHELL$", blocks("ruby")[0], re.MULTILINE | re.DOTALL)
    return [*consoles, vagrant, *(words[-1] for words in yaml.safe_load(blocks("yaml")[0])["runcmd"])]


@pytest.mark.parametrize("command", commands())
def test_shell(command: str) -> None:
    done = subprocess.run(["sh", "-n"], input=command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    if "curl" in command and "sum.golang.org" not in command:
        script = rf"\s*curl -fsS http://[\w.]+:8080({re.escape(PATH)}|/vm/install\.sh) \| sh"
        assert re.match(rf"{script}( -s -- --[a-z]+[\w +/.:=-]*)?\n?$", command)


def test_cloud_init() -> None:
    (text,) = blocks("yaml")
    assert text.startswith("#cloud-config\n"), "without this line cloud-init takes it for something else"
    data = yaml.safe_load(text)
    assert set(data) == {"packages", "runcmd"}
    assert all(isinstance(package, str) for package in data["packages"])
    ((*words, _),) = data["runcmd"]
    assert words == ["su", "-", "ubuntu", "-c"]


@pytest.mark.parametrize(
    ("script", "begins"),
    [("setup.sh", "# Pointing VMs at the host\n"), ("install.sh", "\n## From nothing\n")],
)
def test_options(script: str, begins: str) -> None:
    """Those of a script are in its own section, and no others."""
    usage = (SCRIPTS / script).read_text().partition("usage() {")[2].partition("\n}\n")[0]
    section = PAGE.partition(begins)[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(--[a-z0-9-]+)", section, re.MULTILINE))
    assert documented == set(re.findall(r"^  (--[a-z0-9-]+)", usage, re.MULTILINE))


def test_variables() -> None:
    planned = set(re.findall(r'^    plan ([A-Z]+) "', SCRIPT, re.MULTILINE))
    rows = re.findall(r"^\| (`GO.*?) \|", PAGE, re.MULTILINE)
    assert planned == set(re.findall(r"`([A-Z]+)`", " ".join(rows)))
    assert planned == set(re.findall(r"\bfor key in ([A-Z ]+); do", SCRIPT)[0].split())


def test_what_install_leaves_where() -> None:
    text = (SCRIPTS / "install.sh").read_text()
    for place in ("/usr/local/lib/goproxy-vm", "/usr/local/go", "/etc/profile.d/goproxy-vm.sh"):
        assert f"={place}\n" in text
        assert f"`{place}" in PAGE
    assert "=$HOME/.local/share/goproxy-vm ;;" in text


def test_server_command() -> None:
    (command,) = re.findall(r"^\$ goproxy-vm (.*)$", PAGE, re.MULTILINE)
    assert cli._parser().parse_args(command.split())
