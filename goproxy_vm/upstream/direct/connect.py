"""ssh's ProxyCommand: ``python -I -S connect.py HOST PORT`` connects by the egress gate.

``$EGRESS`` is the gate's port and the run's token: in the environment, for arguments are seen by everybody.
"""

import base64
import os
import socket
import sys
import threading

CHUNK = 64 << 10


def connect(host: str, port: str) -> socket.socket:
    """A tunnel. SystemExit says why there is none, in curl's words."""
    gate, token = os.environ["EGRESS"].split()
    tunnel = socket.create_connection(("127.0.0.1", int(gate)))
    secret = base64.b64encode(f"git:{token}".encode()).decode()
    name = f"[{host}]" if ":" in host else host  # ssh has taken the brackets off
    head = f"CONNECT {name}:{port} HTTP/1.1\r\nProxy-Authorization: Basic {secret}\r\n\r\n"
    tunnel.sendall(head.encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = tunnel.recv(1)  # not one of what comes behind
        if not byte:
            break
        answer += byte
    status = answer.split(b" ", 2)[1:2]
    if status != [b"200"]:
        said = b"".join(status).decode("ascii", "replace")
        sys.exit(f"CONNECT tunnel failed, response {said}")
    return tunnel


def _send(tunnel: socket.socket) -> None:
    try:
        while data := os.read(0, CHUNK):
            tunnel.sendall(data)
        tunnel.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other direction ends, too


def _receive(tunnel: socket.socket) -> None:
    try:
        while data := memoryview(tunnel.recv(CHUNK)):
            while data:
                data = data[os.write(1, data) :]
    except OSError:
        pass  # ssh has gone, or the gate


if __name__ == "__main__":
    way = connect(*sys.argv[1:3])
    threading.Thread(target=_send, args=(way,), name="send", daemon=True).start()
    _receive(way)
    os._exit(0)  # the other thread may be reading still
