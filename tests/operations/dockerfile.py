"""A Dockerfile without Docker: read it, and turn it into a shell script that does what its build does."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """One FROM and what follows it: instruction and its argument, continued lines joined."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The arguments of that instruction, in their order."""
        return [argument for each, argument in self.steps if each == instruction]

    def environment(self) -> dict[str, str]:
        """ARG's defaults and ENV."""
        found: dict[str, str] = {}
        for instruction, argument in self.steps:
            if instruction in ("ARG", "ENV"):
                found |= dict(word.split("=", 1) for word in shlex.split(argument) if "=" in word)
        return found

    def command(self, instruction: str) -> list[str]:
        """The words of an ENTRYPOINT, a CMD or a HEALTHCHECK in its exec form."""
        argument = self.all(instruction)[-1]
        words: list[str] = json.loads(argument[argument.index("[") :])
        return words


def read(path: Path) -> list[Stage]:
    """The stages of a Dockerfile."""
    lines = [line for line in path.read_text().splitlines() if line and not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        instruction, argument = line.split(None, 1)
        if instruction == "FROM":
            base, *named = argument.split()
            stages.append(Stage(base, named[1] if named else str(len(stages))))
        elif stages:
            stages[-1].steps.append((instruction, argument))
    return stages


def script(stages: list[Stage], context: Path, base: str, after: str) -> str:
    """A shell script, for a mount namespace of its own, that builds each stage in a root of its own.

    The base image is this machine with the Python whose prefix is ``base``; what a step changes lies in
    memory, below ``/mnt``, and the machine stays as it is. ``after`` runs at the end, with ``$root`` as the
    last stage's root.
    """
    lines = ["set -eu", "mount -t tmpfs -o mode=755 tmpfs /mnt"]
    for stage in stages:
        lines += [
            f"top=/mnt/{stage.name} root=/mnt/{stage.name}/root",
            "mkdir -p $top/upper $top/work $root",
            "mount -t overlay -o lowerdir=/,upperdir=$top/upper,workdir=$top/work overlay $root",
            "mount --rbind /dev $root/dev; mount -t proc proc $root/proc",
            # Neither the sources nor what earlier runs have installed is in a clean machine.
            "mount -t tmpfs -o mode=1777 tmpfs $root/tmp",
            "rm -rf $root/opt/goproxy-vm $root/var/cache/goproxy-vm",
            # As in the image: Python below /usr/local.
            "mkdir -p $top/local $top/local-work",
            f"layers=lowerdir={base}:/usr/local,upperdir=$top/local,workdir=$top/local-work",
            "mount -t overlay -o $layers overlay $root/usr/local",
            "ln -sf python3 $root/usr/local/bin/python; chroot $root ldconfig",
            "cd /",
        ]
        directory, environment = "/", {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
        for instruction, argument in stage.steps:
            if instruction == "ENV":
                environment |= Stage("", "", [(instruction, argument)]).environment()
            elif instruction == "WORKDIR":
                directory = argument
                lines.append(f"mkdir -p $root{directory}")
            elif instruction == "COPY":
                lines.append(_copy(argument, context, directory))
            elif instruction == "RUN":
                settings = " ".join(shlex.quote(f"{name}={value}") for name, value in environment.items())
                inside = shlex.quote(f"cd {directory} && {argument}")
                lines.append(f"chroot $root env {settings} sh -c {inside}")
    return "\n".join([*lines, after])


def _copy(argument: str, context: Path, directory: str) -> str:
    *sources, target = argument.split()
    where = f"{context}/"
    if sources[0].startswith("--from="):
        where = f"/mnt/{sources.pop(0).removeprefix('--from=')}/root"
    into = target if target.startswith("/") else f"{directory}/{target.removeprefix('./')}"
    copies = [f"mkdir -p $root{into if target.endswith('/') else Path(into).parent}"]
    copies += [f"cp -a {shlex.quote(where + source)} $root{into}" for source in sources]
    return "; ".join(copies)
