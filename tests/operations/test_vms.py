"""docs/vms.md: what is to be copied from it is sound, and what it says of the scripts is true."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from goproxy_vm import cli

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


def commands() -> list[str]:
    """What the page would have one type, cloud-init and Vagrant run."""
    consoles = re.findall(r"^[$#] (.*?)(?=^[$#] |\Z)", "".join(blocks("console")), re.MULTILINE | re.DOTALL)
    vagrant = re.findall(r"<<~SHELL\n(.*?)^ *SHELL$", blocks("ruby")[0], re.MULTILINE | re.DOTALL)
    runs = yaml.safe_load(blocks("yaml")[0])["runcmd"]
    return [*consoles, *vagrant, *(run if isinstance(run, str) else run[-1] for run in runs)]


@pytest.mark.parametrize("command", commands())
def test_shell(command: str) -> None:
    done = subprocess.run(["sh", "-n"], input=command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    if "curl" in command and " -o " not in command and "sum.golang.org" not in command:
        command = command.partition("\n")[0] if command.startswith("curl") else command  # and what it prints
        match = re.match(
            r"\s*curl -fsS http://[\w.]+:8080/vm/(setup|clean|install)\.sh \| sh( -s -- (--.*))?\n?$", command
        )
        assert match
        script = (SCRIPTS / f"{match[1]}.sh").read_text()
        assert set(re.findall(r"--[a-z][a-z0-9-]*", match[3] or "")) <= options(script)


def test_cloud_init() -> None:
    (text,) = blocks("yaml")
    assert text.startswith("#cloud-config\n"), "without this line cloud-init takes it for something else"
    data = yaml.safe_load(text)
    assert set(data) == {"packages", "runcmd"}
    assert all(isinstance(package, str) for package in data["packages"])
    (*as_root, install), (*as_user, setup) = data["runcmd"]
    assert as_root == ["sh", "-c"]
    assert install.endswith("/vm/install.sh | sh -s -- --no-setup"), "root builds nothing"
    assert as_user == ["su", "-", "ubuntu", "-c"]
    assert setup.endswith("/vm/setup.sh | sh")


def test_no_snippet_has_the_go_of_a_distribution() -> None:
    """It is old, and where there is none setup.sh fails."""
    snippets = "".join(blocks("yaml") + blocks("ruby"))
    assert "golang" not in snippets
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
