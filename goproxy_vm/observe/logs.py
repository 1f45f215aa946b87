"""Structured logs on the standard library: an event and its fields, one line each, to stderr only.

A part says ``log = get_logger("web")`` once, then ``log.info("serving", url=url)``. The event is a fixed
phrase that can be searched for; all that varies is a field. Lines are written by a thread of their own,
for a pipe that nobody reads must not stop the server: when the queue is full, lines are dropped, counted,
and the count is logged. Paths and other text from clients cannot forge lines: control characters and all
that is not ASCII are escaped. Each field is bounded, and so are the lines that one client causes, and
those of one event. Where stderr is systemd's journal, each line begins with its priority.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import re
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from goproxy_vm.hostos import leads_to_journal
from goproxy_vm.observe.allowance import EVENTS, REFUSALS, WARNINGS, Allowance

STDERR = 2
"""The descriptor that lines go to."""
QUEUED_MOST = 10_000
"""Lines that wait to be written before more are dropped."""
LONGEST = 512
"""Characters of a field's text that are kept."""
BAD_REQUEST = 400
"""The lowest status of a request that failed."""
LONGEST_TRACE = 16 << 10
"""Characters of a traceback that are kept, counted from its end, where the cause is."""
DRAIN_SECONDS = 2.0
"""How long the end of the process waits for lines not yet written."""
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog's priorities, which the journal takes from the beginning of a line as in ``<3>`` (sd-daemon(3))."""

Render = Callable[[Mapping[str, Any]], str]

_ROOT = "goproxy_vm"
_FIELDS = "goproxy_vm_fields"
_BARE = re.compile(r"[!#-<>-\[\]-~]+")
"""Text that needs no quotes: printable ASCII without space, quote, equals sign and backslash."""


class Log:
    """One part's logger. The event comes first, everything else by keyword.

    ``time``, ``level``, ``logger``, ``message`` and ``traceback`` are taken, and cannot be fields.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{_ROOT}.{name}")

    def debug(self, event: str, /, **fields: object) -> None:
        """What only a developer wants to know."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """What happened, in the normal course of things."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """What an operator may want to look at."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """What an operator must look at."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error with the traceback of the exception being handled."""
        self._log(logging.ERROR, event, fields, trace=True)

    def _log(self, level: int, event: str, fields: Mapping[str, object], *, trace: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={_FIELDS: fields}, exc_info=trace)


def get_logger(name: str) -> Log:
    """The logger of one part; ``name`` is a word like ``web``."""
    return Log(name)


@contextlib.contextmanager
def setup(
    log_format: str, level: str, *, fd: int = STDERR, most: int = QUEUED_MOST, greets: bool = False
) -> Iterator[Writer]:
    """Send all logs of the process, those of asyncio and aiohttp too, to ``fd`` while the context lasts.

    ``log_format`` is text or json; ``level`` debug, info, warning or error. Libraries log from info on at
    the least: their debug lines are about their insides. At the end, lines that wait are written, for two
    seconds at most.
    ``greets``: lines of a good start are left out, for a person is greeted instead.
    """
    render: Render = {"text": render_text, "json": render_json}[log_format]
    if leads_to_journal(fd):
        render = prioritized(render)
    root, ours = logging.getLogger(), logging.getLogger(_ROOT)
    before = root.handlers[:], root.level, ours.level
    writer = Writer(fd, render, most)
    root.handlers[:] = [_Handler(writer, greets=greets)]
    set_level(level)
    logging.captureWarnings(True)
    writer.start()
    try:
        yield writer
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])
        writer.stop()


def set_level(level: str) -> None:
    """Log from ``level`` on: debug, info, warning or error."""
    least = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger().setLevel(max(least, logging.INFO))
    logging.getLogger(_ROOT).setLevel(least)


class Writer:
    """Writes lines to a descriptor from its own thread. ``dropped`` counts lines lost to a full queue."""

    def __init__(self, fd: int, render: Render, most: int) -> None:
        self._fd = fd
        self._render = render
        self._lines: queue.Queue[str | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._told = 0
        self.dropped = 0

    def start(self) -> None:
        """Write from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits; whatever the reader of the pipe does, return soon."""
        until = time.monotonic() + DRAIN_SECONDS
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=DRAIN_SECONDS)
        self._thread.join(max(0.0, until - time.monotonic()))

    def put(self, line: Mapping[str, Any]) -> None:
        """Queue one line, or drop it; never waits, never raises."""
        try:
            self._lines.put_nowait(self._render(line))
        except queue.Full:
            self.dropped += 1

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if (dropped := self.dropped) > self._told:
                fields = {"lines": dropped - self._told, "in_all": dropped}
                self._told = dropped
                self._write(self._render(_line(time.time(), "warning", "logs", "log lines dropped", fields)))

    def _write(self, line: str) -> None:
        rest = line.encode("ascii") + b"\n"
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                # Whoever shares our stderr made it non-blocking; this thread has the time to wait.
                select.select([], [self._fd], [])
            except OSError:
                return  # nobody will ever read it, and there is nowhere to say so


def _good_start(record: logging.LogRecord) -> bool:
    """Whether a line only says that all is as it should be: it serves, and there was nothing to recover."""
    event = record.getMessage()
    return event == "serving" or (event == "recovered" and not any(getattr(record, _FIELDS, {}).values()))


class _Handler(logging.Handler):
    """Turns records into lines."""

    def __init__(self, writer: Writer, *, greets: bool) -> None:
        super().__init__()
        self._greets = greets
        self._writer = writer
        self._clients = Allowance()
        self._events = Allowance()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            for key, allowance in (("client", self._clients), ("left_out", self._events)):
                for of, lines in allowance.left_out():
                    fields = {key: of, "lines": lines}
                    self._writer.put(_line(record.created, "warning", "logs", "lines left out", fields))
            if self._allowed(record) and not (self._greets and _good_start(record)):
                self._writer.put(self._line(record))
        except Exception:  # noqa: BLE001 (a log line is never worth a failed request)
            self.handleError(record)

    def _allowed(self, record: logging.LogRecord) -> bool:
        """Whether there are not too many of the client that the line names; or of its event, where it names
        none. What succeeds is what the access log is for, and debug lines are asked for."""
        if record.levelno <= logging.DEBUG:
            return True
        fields: Mapping[str, object] | None = getattr(record, _FIELDS, None)
        client = None if fields is None else fields.get("client")
        if fields is None or client is None:
            return self._events.take(record.name if fields is None else record.getMessage(), EVENTS)
        if record.levelno >= logging.WARNING:
            return self._clients.take(str(client), WARNINGS)
        status = fields.get("status")
        succeeded = isinstance(status, int) and status < BAD_REQUEST
        return succeeded or self._clients.take(str(client), REFUSALS)

    def _line(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: Mapping[str, object] | None = getattr(record, _FIELDS, None)
        message = record.getMessage()
        level = record.levelname.lower()
        if fields is not None:
            name = record.name.removeprefix(f"{_ROOT}.")
            line = _line(record.created, level, name, message, fields)
        else:
            line = _line(record.created, level, record.name, record.name, {})
            line["message"] = _plain(message)
        if record.exc_info and record.exc_info[0] is not None:
            trace = logging.Formatter().formatException(record.exc_info)
            line["traceback"] = trace[-LONGEST_TRACE:]
        return line


def _line(created: float, level: str, name: str, event: str, fields: Mapping[str, object]) -> dict[str, Any]:
    line: dict[str, Any] = {
        "time": _time(created),
        "level": level,
        "logger": name,
        "event": event,
        "message": event,
    }
    for key, value in fields.items():
        line.setdefault(key, _plain(value))
    return line


def _time(created: float) -> str:
    """UTC as RFC 3339 with milliseconds."""
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: object) -> object:
    """The value as JSON has it, and bounded."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return cut(str(value))


def cut(text: str) -> str:
    """The text as far as it is logged."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def render_json(line: Mapping[str, Any]) -> str:
    """One object a line, in ASCII."""
    return json.dumps(line).replace("\x7f", "\\u007f")


def render_text(line: Mapping[str, Any]) -> str:
    """For people: time, level, logger, message, fields; a traceback below, indented.

    No text from outside begins a line, so none can pass for an entry.
    """
    rest = dict(line)
    head = f"{rest.pop('time')} {rest.pop('level').upper():7} {rest.pop('logger')}: "
    head += _escaped(rest.pop("message"))
    del rest["event"]  # the message of our own lines; a library's name, which the head has, of others
    trace = rest.pop("traceback", "")
    words = [head, *(f"{key}={_value(value)}" for key, value in rest.items())]
    below = [f"    {_escaped(each)}" for each in trace.splitlines()]
    return "\n".join([" ".join(words), *below])


def prioritized(render: Render) -> Render:
    """As ``render``, for the journal: each line, of a traceback too, begins with its priority."""

    def rendered(line: Mapping[str, Any]) -> str:
        mark = f"<{PRIORITIES.get(line['level'], PRIORITIES['info'])}>"
        return mark + render(line).replace("\n", f"\n{mark}")

    return rendered


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, str) and not _BARE.fullmatch(text):
        text = json.dumps(text)
    return text.replace("\x7f", "\\u007f")


def _escaped(text: str) -> str:
    """Text without its quotes, all that is not printable ASCII escaped."""
    return json.dumps(text)[1:-1].replace('\\"', '"').replace("\x7f", "\\u007f")
