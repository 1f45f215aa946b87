"""The ``goproxy-vm`` command; no logic of its own."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from goproxy_vm import __version__
from goproxy_vm.config import (
    Key,
    Loaded,
    default_files,
    environment_name,
    file_of_settings,
    flag_name,
    keys,
    load,
)
from goproxy_vm.config.text import printable, quoted
from goproxy_vm.config.token import named_token
from goproxy_vm.console.arguments import CONFIG_HELP, Commands, add_shared
from goproxy_vm.console.hints import check_order, left_out, near
from goproxy_vm.errors import ConfigError, NoServer, OperatorError
from goproxy_vm.hostos import leads_to_journal
from goproxy_vm.observe.logs import PRIORITIES, STDERR
from goproxy_vm.upstream.spec import parse_upstreams
from goproxy_vm.version import commit_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHELLS = ("bash", "zsh", "fish")
"""Shells that a completion script can be made for."""
INTERRUPTED = 130
"""The exit status after Ctrl-C before the server handles it itself: 128 and SIGINT's number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. What an operator can put right ends in one line on stderr."""
    try:
        parser = command_line()
        check_order(parser, sys.argv[1:] if argv is None else argv)
        arguments = parser.parse_args(argv)
        _refuse_misplaced(arguments)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except OperatorError as error:
        _complain(error.sentence, f"<{PRIORITIES['error']}>" if leads_to_journal(STDERR) else "")
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED


def _serve(arguments: argparse.Namespace) -> int:
    # Only this command needs the server: the others answer at once, without aiohttp and the rest.
    from goproxy_vm import process

    return process.run(lambda: _load(arguments), greets=sys.stderr.isatty())


def _check(arguments: argparse.Namespace) -> int:
    loaded = _load(arguments)
    if loaded.settings.admin_token_file is not None and not loaded.settings.admin_token:
        named_token(loaded.settings.admin_token_file)
    if arguments.json:
        file = None if loaded.file is None else str(loaded.file.path)
        _print(json.dumps({"valid": True, "warnings": loaded.warnings, "file": file}))
        return 0
    for warning in loaded.warnings:
        _complain(f"warning: {warning}")
    if loaded.file is None:
        places = " and ".join(str(path) for path in default_files(os.environ))
        _print(f"configuration is valid (no file: there is no {places}; --config names another)")
    else:
        _print(f"configuration is valid (file {printable(str(loaded.file.path))}, {loaded.file.origin})")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    loaded = _load(arguments)
    if arguments.json:
        shown = {name: {"value": each.value, "origin": each.origin} for name, each in loaded.origins.items()}
        _print(json.dumps(shown, indent=2))
        return 0
    for warning in loaded.warnings:
        _complain(f"warning: {warning}")
    _print(
        "\n".join(f"{name} = {_toml(each.value)}  # {each.origin}" for name, each in loaded.origins.items())
    )
    return 0


def _ask(arguments: argparse.Namespace) -> int:
    from goproxy_vm.console.client import Client, Place, Token, find_owners, find_server, find_token
    from goproxy_vm.console.commands import Console

    flags = {} if arguments.cache_dir is None else {"cache_dir": arguments.cache_dir}
    settings = load(flags, os.environ, file_of_settings(arguments.config, os.environ)).settings
    # A probe needs none, and must not fail because its file cannot be read.
    named = arguments.token_file if "token_file" in arguments.takes else None
    token = find_token(settings, named) if "token_file" in arguments.takes else Token(None)
    place = Place(arguments.admin_url) if arguments.admin_url else find_server(settings)
    client = Client(place.url, token, find_owners(settings, named))
    try:
        Console(client, as_json=arguments.json, printed=_print).run(arguments.asked, arguments)
    except NoServer as error:
        if not place.missed:
            raise
        raise NoServer(
            f"{error.sentence}; nor is one at {printable(place.missed)}; if it runs, name its cache "
            "directory (--cache-dir), its configuration (--config) or its address (--admin-url)"
        ) from None
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from goproxy_vm.doctor.check import as_json, as_text, healthy
    from goproxy_vm.doctor.examine import examine

    checks = examine(lambda: _load(arguments))
    _print(json.dumps(as_json(checks), indent=2) if arguments.json else as_text(checks))
    return 0 if healthy(checks) else 1


def _completion(arguments: argparse.Namespace) -> int:
    from goproxy_vm.console.completion import script

    _print(script(command_line(), arguments.shell).rstrip())
    return 0


def _load(arguments: argparse.Namespace) -> Loaded:
    given = vars(arguments)
    flags = {name: given[name] for name in keys() if given.get(name) is not None}
    file = file_of_settings(arguments.config, os.environ)
    return load(flags, os.environ, file, {"upstream": parse_upstreams})


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Its reader, ``head`` perhaps, has seen enough; the flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(sentence: str, priority: str = "") -> None:
    print(f"{priority}goproxy-vm: {sentence}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does, instead of in a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{printable(message)} (see {self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Called for each command's own arguments, too: its flags are the ones that may have been meant.
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].startswith("-")
            first = unknown[0].partition("=")[0] if flag else unknown[0]
            known = self._option_string_actions if flag else ()
            hint = ("" if flag else left_out(self, first)) or near(self, first, known)
            raise ConfigError(f"{printable(first)}: no such flag or argument{hint}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:  # noqa: SLF001
            hint = near(self, str(value), action.choices)
            raise ConfigError(f"{printable(str(value))}: no such command{hint}")
        super()._check_value(action, value)


def command_line() -> _Parser:
    """What is understood: the commands and their flags. ConfigError: when it parses what is none."""
    parser = _Parser(
        prog="goproxy-vm", description="A Go module proxy for every VM on a host.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"goproxy-vm {__version__}")
    add_shared(parser, default=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve = commands.add_parser("serve", help="serve modules until SIGTERM or SIGINT", allow_abbrev=False)
    serve.set_defaults(command=_serve, takes=())
    config = commands.add_parser("config", help="look at the settings", allow_abbrev=False)
    config_commands = config.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = config_commands.add_parser("check", help="check all settings", allow_abbrev=False)
    check.set_defaults(command=_check, takes=("json",))
    show = config_commands.add_parser(
        "show", help="print every setting in force and where it came from", allow_abbrev=False
    )
    show.set_defaults(command=_show, takes=("json",))
    doctor = commands.add_parser(
        "doctor",
        help="check the whole set-up and say what to do about it; changes nothing",
        allow_abbrev=False,
    )
    doctor.set_defaults(command=_doctor, takes=("json",))
    completion = commands.add_parser("completion", help="print a completion script", allow_abbrev=False)
    completion.set_defaults(command=_completion, takes=())
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    version = commands.add_parser("version", help="print the version and its commit", allow_abbrev=False)
    version.set_defaults(command=_version, takes=("json",))
    for each in (serve, check, show, doctor):
        _add_settings(each)
    for each in (check, show, doctor, version):
        each.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    Commands(commands, _ask).add()
    helping = commands.add_parser("help", help="print the help of a command", allow_abbrev=False)
    helping.add_argument("topics", metavar="COMMAND", nargs="*", help="the command, as in: help config check")
    helping.set_defaults(command=lambda given: _help(parser, given.topics), takes=())
    return parser


def _version(arguments: argparse.Namespace) -> int:
    commit = commit_of(Path(__file__).parent)
    if arguments.json:
        _print(json.dumps({"version": __version__, "commit": commit or None}))
    else:
        _print(f"goproxy-vm {__version__}{f' (commit {commit})' if commit else ''}")
    return 0


def _help(parser: _Parser, topics: Sequence[str]) -> int:
    parser.parse_args([*topics, "--help"])  # which ends the program
    return 0


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help=CONFIG_HELP)
    group = parser.add_argument_group(
        "settings", "Also environment variables and keys of the file, which flags override."
    )
    for name, key in keys().items():
        if key.hidden:
            continue
        _add_setting(group, name, key)


def _add_setting(group: argparse._ArgumentGroup, name: str, key: Key) -> None:
    many = ", repeatable" if key.form.many else ""
    described = (
        f"{key.help} ({key.form.allowed}{many}; ${environment_name(name)}; default: {key.default or 'none'})"
    )
    described = described.replace("%", "%%")
    if bool in key.form.native:
        group.add_argument(flag_name(name), action="store_const", const="true", dest=name, help=described)
        no = f"--no-{flag_name(name).removeprefix('--')}"
        group.add_argument(no, action="store_const", const="false", dest=name, help=f"not {flag_name(name)}")
    else:
        action = "append" if key.form.many else "store"
        group.add_argument(
            flag_name(name), action=action, dest=name, metavar=key.form.metavar, help=described
        )


def _refuse_misplaced(arguments: argparse.Namespace) -> None:
    """What may stand before a command must be one that the command takes."""
    for name in ("admin_url", "token_file", "json"):
        if getattr(arguments, name) is not None and name not in arguments.takes:
            raise ConfigError(f"{flag_name(name)}: no such flag of this command (see goproxy-vm --help)")
