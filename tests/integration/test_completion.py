"""Completion scripts, at work in the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from goproxy_vm import cli

Complete = Callable[[str], list[str]]

BASH = """
source "$1"
read -ra COMP_WORDS <<< "$2"
[[ $2 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
read -ra registered <<< "$(complete -p goproxy-vm)"
"${registered[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = 'source $argv[1]; complete -C "$argv[2]"'
ZSH_INNER = """
PS1= PS2= RPS1=
unsetopt zle_bracketed_paste
fpath=($PWD $fpath)
autoload -Uz compinit
compinit -u -D
all=()
offered() {
  compadd() { builtin compadd -A found "$@"; all+=("${found[@]}"); builtin compadd "$@" }
  _main_complete
  print -r -- "<<"
  print -rl -- $all
  print -r -- ">>"
  exit
}
zle -C offered complete-word offered
bindkey '^I' offered
"""
ZSH = """
zmodload zsh/zpty
zpty inner zsh -f -i
zpty -w inner 'source ./inner'
zpty -n -w inner "$2"$'\\t'
zpty -r inner seen '*<<*>>*'
seen=${seen##*<<}
print -r -- ${seen%%>>*}
"""


@pytest.fixture(params=["bash", "zsh", "fish"])
def complete(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Complete:
    """What a shell offers for a line at its end."""
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip(f"{request.param} is not installed")
    assert cli.main(["completion", request.param]) == 0
    script = tmp_path / {"bash": "goproxy-vm", "zsh": "_goproxy-vm", "fish": "goproxy-vm.fish"}[request.param]
    script.write_text(capsys.readouterr().out)
    (tmp_path / "inner").write_text(ZSH_INNER)
    argv = {
        "bash": [shell, "--norc", "-c", BASH, "bash"],
        "zsh": [shell, "-f", "-c", ZSH, "zsh"],
        "fish": [shell, "--no-config", "-c", FISH],
    }[request.param]

    def run(line: str) -> list[str]:
        ran = subprocess.run(
            [*argv, str(script), line], capture_output=True, text=True, timeout=30, cwd=tmp_path
        )
        assert ran.stderr == ""
        offered = [
            line.split("\t")[0].strip() for line in ran.stdout.splitlines()
        ]  # fish describes after a tab
        return [word for word in dict.fromkeys(offered) if word]

    return run


def test_commands(complete: Complete) -> None:
    assert complete("goproxy-vm pu") == ["purge"]
    assert {"serve", "completion", "config", "purge"} <= set(complete("goproxy-vm "))


def test_flags(complete: Complete) -> None:
    assert complete("goproxy-vm purge --forget") == ["--forget-hash"]


def test_commands_of_config_and_flags_of_settings(complete: Complete) -> None:
    assert set(complete("goproxy-vm config ")) == {"check", "show"}
    assert complete("goproxy-vm config show --upstream-ca") == ["--upstream-ca-file"]


def test_choices_and_files(complete: Complete, tmp_path: Path) -> None:
    assert set(complete("goproxy-vm ls --sort ")) == {"name", "size", "idle", "hits"}
    assert complete("goproxy-vm completion f") == ["fish"]
    (tmp_path / "house.toml").touch()
    assert complete("goproxy-vm serve --config hou") == ["house.toml"]


def test_other_shells(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "tcsh"]) == 2
    assert "invalid choice" in capsys.readouterr().err
