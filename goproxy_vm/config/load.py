"""Where settings come from: flags over environment over file over default."""

from __future__ import annotations

import difflib
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goproxy_vm.config import values
from goproxy_vm.config.settings import Key, Settings, keys
from goproxy_vm.config.sumdb import GOOGLE_KEY, GOOGLE_NAME
from goproxy_vm.config.text import MASKED, printable, quoted, redacted
from goproxy_vm.errors import ConfigError

ENVIRONMENT_PREFIX = "GOPROXY_VM_"
FILE_VARIABLE = "GOPROXY_VM_CONFIG"
"""Names the file of settings where no flag does."""
SYSTEM_FILE = Path("/etc/goproxy-vm.toml")
"""The host's file of settings, which every command reads unless another is named."""
SYSTEM_ENVIRONMENT = Path("/etc/goproxy-vm.env")
"""What the host's service has in its environment besides (systemd's EnvironmentFile=): the commands beside it
must know the same settings."""

Check = Callable[[str], object]
"""Looks at a key's text, and raises ValueError with a sentence where it is not right."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One key's value as ``config show`` shows it (without passwords), and where it came from."""

    value: str | int | float | bool | list[str]
    origin: str


@dataclass(frozen=True, slots=True)
class File:
    """The file of settings, what named it, and a file of environment variables that goes with it."""

    path: Path
    origin: str
    environment: Path | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What ``load`` found: the settings, each one's origin by name, sentences worth a warning, the file."""

    settings: Settings
    origins: Mapping[str, Shown]
    warnings: tuple[str, ...]
    file: File | None


@dataclass(frozen=True, slots=True)
class _Raw:
    """A value as typed, and where."""

    value: object
    origin: str


def flag_name(key: str) -> str:
    """The flag of a key."""
    return f"--{key.replace('_', '-')}"


def environment_name(key: str) -> str:
    """The environment variable of a key."""
    return f"{ENVIRONMENT_PREFIX}{key.upper()}"


def _did_you_mean(name: str, as_shown: Callable[[str], str] = str) -> str:
    """``; did you mean X?`` where a key's name is close, else nothing."""
    close = difflib.get_close_matches(name.lower().replace("-", "_"), keys(), n=1)
    return f"; did you mean {as_shown(close[0])}?" if close else ""


def file_of_settings(
    named: Path | None, environ: Mapping[str, str], system: Path = SYSTEM_FILE
) -> File | None:
    """The file that a command reads: the one ``named`` by its flag or by the environment, which must be
    there; else the host's, else the user's, if there is one.
    """
    if named is not None:
        return File(named, "flag --config")
    if variable := environ.get(FILE_VARIABLE):
        return File(Path(variable), f"environment variable {FILE_VARIABLE}")
    for path in default_files(environ, system):
        if path.exists():
            return File(path, "default", SYSTEM_ENVIRONMENT if path == system else None)
    return None


def default_files(environ: Mapping[str, str], system: Path = SYSTEM_FILE) -> tuple[Path, ...]:
    """Where the file of settings is looked for, in this order (XDG base directory specification)."""
    base = Path(environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():
        base = Path(environ.get("HOME", "")) / ".config"
    return (system, base / "goproxy-vm.toml") if base.is_absolute() else (system,)


def load(
    flags: Mapping[str, str | Sequence[str]],
    environ: Mapping[str, str],
    file: File | None,
    checks: Mapping[str, Check] | None = None,
) -> Loaded:
    """Read every setting.

    ``file`` is what :func:`file_of_settings` found; ``flags`` holds the keys that were given as flags, a list
    for a repeated one; an empty environment variable counts as not set; ``checks`` lets parts above this one
    refuse the text of a key of theirs. Raises ConfigError naming the key, where it was set, the value as
    typed and what is allowed.
    """
    table = keys()
    raws = _from_file(file, table) if file is not None else {}
    warnings = []
    if file is not None and file.environment is not None:
        warnings += _from_service(file.environment, table, raws)
    warnings += _from_environment(environ, table, raws)
    for name, value in flags.items():
        raws[name] = _Raw(value if isinstance(value, str) else ",".join(value), f"flag {flag_name(name)}")
    parsed: dict[str, Any] = {}
    origins: dict[str, Shown] = {}
    for name, key in table.items():
        raw = raws.get(name) or _default(name, key, environ)
        text = _as_text(name, key, raw)
        parsed[name] = _parse(name, key, raw, text)
        if checks is not None and name in checks:
            _check(name, key, raw, checks[name], text)
        origins[name] = Shown(_shown(key, raw, text, parsed[name]), raw.origin)
    settings = Settings(**parsed)
    if settings.low_water > settings.high_water:
        raise ConfigError(
            f"low_water: {settings.low_water:g} ({origins['low_water'].origin}):"
            f" expected no more than high_water, which is {settings.high_water:g}"
        )
    for address in settings.listen:
        if address.overlaps(settings.admin_listen):
            raise ConfigError(
                f"admin_listen: {settings.admin_listen} ({origins['admin_listen'].origin}):"
                f" expected another address than listen, which has {address}"
            )
    if settings.vm_go and (settings.sumdb is None or settings.sumdb.vkey != GOOGLE_KEY):
        raise ConfigError(
            f"vm_go: {settings.vm_go} ({origins['vm_go'].origin}): expected nothing, unless sumdb is "
            f"{GOOGLE_NAME}: no other database is known to prove toolchains"
        )
    if settings.private and not (
        settings.private_clients or settings.private_tokens_file or settings.allow_clients
    ):
        warnings.append(
            "private: whoever reaches this server may have private modules: "
            "name the VMs' networks in private_clients, or tokens in private_tokens_file"
        )
    warnings += [
        f"private_repos: {each.prefix}: private names no such modules, so the proxies are asked for them: "
        "name them in private"
        for each in settings.private_repos
        if not each.within(settings.private)
    ]
    return Loaded(settings, origins, tuple(warnings), file)


def _from_file(file: File, table: Mapping[str, Key]) -> dict[str, _Raw]:
    where = printable(str(file.path))
    try:
        content = tomllib.loads(file.path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"config: {where} ({file.origin}) cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"config: {where} ({file.origin}) is not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"config: {where} ({file.origin}) is not TOML: {printable(str(error))}") from None
    for name in content:
        if name not in table:
            hint = _did_you_mean(name) or f"; the keys are {', '.join(table)}"
            raise ConfigError(f"{printable(name)}: no such key (file {where}){hint}")
    return {name: _Raw(value, f"file {where}") for name, value in content.items()}


def _from_environment(
    environ: Mapping[str, str], table: Mapping[str, Key], raws: dict[str, _Raw]
) -> list[str]:
    """Add what the environment sets; returns a warning for each variable that is no setting.

    Only a warning: for a Service named goproxy-vm, Kubernetes sets GOPROXY_VM_PORT and more.
    """
    known = {environment_name(name): name for name in table}
    warnings = []
    for variable in sorted(environ):
        if variable in known and environ[variable]:
            raws[known[variable]] = _Raw(environ[variable], f"environment variable {variable}")
        elif variable.startswith(ENVIRONMENT_PREFIX) and variable not in known and variable != FILE_VARIABLE:
            hint = _did_you_mean(variable.removeprefix(ENVIRONMENT_PREFIX), environment_name)
            warnings.append(f"environment variable {printable(variable)} is no setting and is ignored{hint}")
    return warnings


def _from_service(path: Path, table: Mapping[str, Key], raws: dict[str, _Raw]) -> list[str]:
    """Add what the service's environment sets; returns a warning where that cannot be read."""
    where = printable(str(path))
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{where} cannot be read, so what it sets is unknown here: {error.strerror}"]
    except UnicodeDecodeError:
        return [f"{where} is not UTF-8 text, so what it sets is unknown here"]
    known = {environment_name(name): name for name in table}
    warnings = []
    for number, line in enumerate(text.splitlines(), 1):
        variable, _, value = (part.strip() for part in line.partition("="))
        if variable not in known:
            continue
        try:
            # systemd.exec(5): white space is part of a value without quotes.
            value = "".join(shlex.split(value)) if value.startswith(('"', "'")) else value
        except ValueError as error:
            warnings.append(f"{where}: line {number} is ignored: {error}")
            continue
        if value:
            raws[known[variable]] = _Raw(value, f"file {where}")
    return warnings


def _default(name: str, key: Key, environ: Mapping[str, str]) -> _Raw:
    if not key.computed:
        return _Raw(key.default, "default")
    # cache_dir, the only one so far. systemd gives a list where CacheDirectory= names several; the XDG
    # base directory specification wants relative paths ignored.
    if directory := environ.get("CACHE_DIRECTORY", "").partition(":")[0]:
        return _Raw(directory, "default, from $CACHE_DIRECTORY")
    if Path(base := environ.get("XDG_CACHE_HOME", "")).is_absolute():
        return _Raw(f"{base}/goproxy-vm", "default, from $XDG_CACHE_HOME")
    return _Raw("~/.cache/goproxy-vm", "default")


def _as_text(name: str, key: Key, raw: _Raw) -> str:
    """The value as one text; numbers, booleans and lists only where the key's kind takes them."""
    value = raw.value
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        if bool in key.form.native:
            return "true" if value else "false"
    elif isinstance(value, dict):
        if dict in key.form.native and all(isinstance(each, str) for each in value.values()):
            return ",".join(f"{name}={each}" for name, each in value.items())
    elif isinstance(value, key.form.native):
        return str(value)
    elif key.form.many and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    raise _error(name, key, raw, "")


def _parse(name: str, key: Key, raw: _Raw, text: str) -> object:
    try:
        return key.form.parse(text)
    except ValueError as error:
        raise _error(name, key, raw, str(error)) from None


def _check(name: str, key: Key, raw: _Raw, check: Check, text: str) -> None:
    try:
        check(text)
    except ValueError as error:
        raise ConfigError(
            f"{name}: {_typed(key, raw.value)} ({raw.origin}): {printable(str(error))}"
        ) from None


def _error(name: str, key: Key, raw: _Raw, reason: str) -> ConfigError:
    because = f"{printable(reason)}; " if reason else ""
    return ConfigError(
        f"{name}: {_typed(key, raw.value)} ({raw.origin}): {because}expected {key.form.allowed}"
    )


def _typed(key: Key, value: object) -> str:
    """A value as typed, on one line and without passwords."""
    if key.hidden:
        return quoted(MASKED)
    if isinstance(value, str):
        return quoted(redacted(value) if key.secret else value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_typed(key, item) for item in value)}]"
    return printable(redacted(str(value)) if key.secret else str(value))


def _shown(key: Key, raw: _Raw, text: str, parsed: object) -> str | int | float | bool | list[str]:
    if key.hidden:
        return MASKED if text else ""
    if key.form.many:
        return values.items(text)
    if isinstance(parsed, Path):
        return str(parsed)
    if isinstance(parsed, bool):
        return parsed
    if text.isdecimal():
        return int(text)  # flags and variables say "64" where the file would say 64
    if isinstance(raw.value, float):
        return raw.value
    return redacted(text) if key.secret else text
