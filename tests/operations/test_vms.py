"""docs/vms.md: what is to be copied from it is sound, and what it says of the scripts is true."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from multidict import CIMultiDict, CIMultiDictProxy

from goproxy_vm import cli
from goproxy_vm.web.forwarded import Forwarded

PATH = "/vm/setup.sh"
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "vms.md").read_text()
SCRIPTS = ROOT / "goproxy_vm" / "web"
SCRIPT = (SCRIPTS / "setup.sh").read_text()
CLEAN = (SCRIPTS / "clean.sh").read_text()
SMALL = PAGE.partition("\n## Keeping a VM small\n")[2].partition("\n## ")[0]
UNITS = ROOT / "config" / "vm"


def blocks(language: str) -> list[str]:
    """The fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def data(first: str) -> dict[str, Any]:
    """The one YAML block whose first line begins so."""
    (text,) = [block for block in blocks("yaml") if block.startswith(first)]
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


def commands() -> list[str]:
    """What the page would have one type, and what machines run that are made by it."""
    consoles = re.findall(r"^[$#] (.*?)(?=^[$#] |\Z)", "".join(blocks("console")), re.MULTILINE | re.DOTALL)
    vagrant = re.findall(r"<<~SHELL\n(.*?)^ *SHELL$", blocks("ruby")[0], re.MULTILINE | re.DOTALL)
    runs = [shlex.join(run) if run[-2] != "-c" else run[-1] for run in data("#cloud-config")["runcmd"]]
    docker = re.findall(r"^RUN (.*)$", "".join(blocks("dockerfile")), re.MULTILINE)
    lima = [each["script"] for each in data("images:")["provision"]]
    return [*consoles, *vagrant, *runs, *docker, *lima]


USE = re.compile(
    r"(?:curl -fsS|wget -qO-) (?:-o /usr/local/bin/goproxy-vm-clean )?http://[\w.]+:8080/vm/(setup|clean|install)\.sh"
    r"(?: \| sh(?: -s -- (--[^&|\n]*))?)?(?= && |$)",
    re.MULTILINE,
)
"""A script that is fetched, and run or kept."""


@pytest.mark.parametrize("command", commands())
def test_shell(command: str) -> None:
    done = subprocess.run(["sh", "-n"], input=command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    command = command.partition("\n")[0] if command.startswith("curl") else command  # and what it prints
    uses = USE.findall(command)
    assert len(uses) == command.count("/vm/")
    for name, arguments in uses:
        script = (SCRIPTS / f"{name}.sh").read_text()
        assert set(re.findall(r"--[a-z][a-z0-9-]*", arguments)) <= options(script)


SNIPPETS = {
    "192.168.122.1": blocks("yaml")[0],
    "10.0.2.2": blocks("ruby")[0],
    "host.docker.internal": blocks("dockerfile")[0],
    "host.lima.internal": blocks("yaml")[1],
}


@pytest.mark.parametrize("host", SNIPPETS)
def test_each_way_to_make_a_vm_has_its_whole_life(host: str) -> None:
    """By an address that the page has for it, and at which the scripts are served without another setting."""
    snippet = SNIPPETS[host]
    assert set(re.findall(r"http://([\w.]+):8080/", snippet)) == {host}
    assert {"install", "clean"} <= set(re.findall(r"/vm/(\w+)\.sh", snippet))
    assert f"`{host}`" in PAGE.partition("\n## Which address is the host\n")[2].partition("\n## ")[0]
    headers = CIMultiDictProxy(CIMultiDict({"Host": f"{host}:8080"}))
    assert Forwarded(()).requester("192.0.2.1", headers).url == f"http://{host}:8080"


def test_cloud_init() -> None:
    assert blocks("yaml")[0].startswith("#cloud-config\n"), "else cloud-init takes it for something else"
    found = data("#cloud-config")
    assert set(found) == {"packages", "write_files", "runcmd"}
    assert all(isinstance(package, str) for package in found["packages"])
    (*as_root, install), (*as_user, setup), fetch, chmod = found["runcmd"]
    assert as_root == ["sh", "-c"]
    assert install.endswith("/vm/install.sh | sh -s -- --no-setup"), "root builds nothing"
    assert as_user == ["su", "-", "ubuntu", "-c"]
    assert setup.endswith("/vm/setup.sh | sh")
    (cron,) = found["write_files"]
    assert cron["path"] == "/etc/cron.d/goproxy-vm-clean"
    assert fetch[3] == chmod[-1] == "/usr/local/bin/goproxy-vm-clean"
    lines = (UNITS / "goproxy-vm-clean.cron").read_text().splitlines()
    assert cron["content"].splitlines() == [line for line in lines if line and not line.startswith("#")]


def test_lima() -> None:
    found = data("images:")
    assert set(found) == {"images", "mounts", "provision"}
    assert [each["arch"] for each in found["images"]] == ["x86_64", "aarch64"]
    assert {each["location"].rpartition("-")[2] for each in found["images"]} == {"amd64.qcow2", "arm64.qcow2"}
    assert found["mounts"] == [], "else the host's home is in the VM"
    assert [each["mode"] for each in found["provision"]] == ["system", "user"]
    for each in found["provision"]:
        assert each["script"].startswith("#!/bin/sh\n")


def test_docker() -> None:
    for text in blocks("dockerfile"):
        for line in text.splitlines():
            assert re.match(r"(FROM|ARG|ENV|RUN|COPY|WORKDIR) \S", line), line
    (building,) = re.findall(r"^RUN (go build .*)$", blocks("dockerfile")[0], re.MULTILINE)
    assert "/vm/clean.sh | sh" in building, "in a layer of its own it would free nothing"


def test_whoever_cleans_once_a_day_does_it_alike() -> None:
    (said,) = re.findall(r"^`(--every [^`]*)`", SMALL, re.MULTILINE)
    found = re.findall(r"--every 20[^|\n]*?(?= 2>&1|$)", "".join(SNIPPETS.values()), re.MULTILINE)
    assert found == [said] * 3


def test_no_snippet_has_the_go_of_a_distribution() -> None:
    """It is old, and where there is none setup.sh fails."""
    assert "golang" not in "".join(SNIPPETS.values())
    (vagrant,) = blocks("ruby")
    assert "/vm/install.sh | sh\n" in vagrant


def options(script: str) -> set[str]:
    """Those that the script's usage explains."""
    usage = script.partition("usage() {")[2].partition("\n}\n")[0]
    return set(re.findall(r"^  (--[a-z0-9-]+)", usage, re.MULTILINE))


def documented(text: str) -> set[str]:
    return set(re.findall(r"^\| `(--[a-z-]+)", text, re.MULTILINE))


def test_options_of_clean() -> None:
    assert documented(SMALL) == options(CLEAN)
    taken = CLEAN.partition("take_arguments() {")[2].partition("\n}\n")[0]
    assert set(re.findall(r"^            (?:-h \| )?((?:--[a-z-]+(?: \| )?)+)\)", taken, re.MULTILINE)) == {
        *(options(CLEAN) - {"--age", "--build-age", "--every"}),
        "--age | --build-age | --every",
        "--help",
    }


@pytest.mark.parametrize(
    ("script", "begins"),
    [("setup.sh", "\n## Set up\n"), ("install.sh", "\n## From nothing\n")],
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
    found = re.findall(r"^\$ goproxy-vm (.*?)(?: +#.*)?$", PAGE, re.MULTILINE)
    assert len(found) > 1
    for command in found:
        assert cli.command_line().parse_args(command.split())


# What a VM gets from config/vm


def test_timer_and_cron_line_run_what_the_page_says() -> None:
    (said,) = re.findall(r"^`(--every [^`]*)`", SMALL, re.MULTILINE)
    (service,) = re.findall(
        r"^ExecStart=(.*)$", (UNITS / "goproxy-vm-clean@.service").read_text(), re.MULTILINE
    )
    assert service == f"/usr/local/bin/goproxy-vm-clean {said}"
    cron = (UNITS / "goproxy-vm-clean.cron").read_text().splitlines()
    (line,) = [line for line in cron if line[:1] not in "#P"]
    assert line == f"17 * * * * ubuntu nice goproxy-vm-clean {said} 2>&1 | logger -t goproxy-vm-clean"
    assert set(re.findall(r"--[a-z-]+", said)) <= options(CLEAN)
    assert "-o /usr/local/bin/goproxy-vm-clean http://" in SMALL


def test_systemd_takes_the_timer(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    units = []
    for kind in ("service", "timer"):
        text = (UNITS / f"goproxy-vm-clean@.{kind}").read_text()
        text = text.replace("/usr/local/bin/goproxy-vm-clean", "/bin/true")  # systemd looks for it
        units.append(tmp_path / f"goproxy-vm-clean@root.{kind}")
        units[-1].write_text(text)
    done = subprocess.run([program, "verify", "--man=no", *units], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
