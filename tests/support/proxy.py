"""A TCP proxy in front of a PostgreSQL server that breaks off, or goes silent, at a chosen moment."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import sqlalchemy as sa


class Proxy:
    """Passes bytes both ways until told otherwise. `url` is the database's, by way of the proxy."""

    def __init__(self, url: str) -> None:
        server = sa.make_url(url)
        assert server.host is not None
        self._server = (server.host, server.port or 5432)
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.url = server.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.silent = threading.Event()
        """While set, connections are accepted and nothing is passed on, in either direction."""
        self.on_request: Callable[[bytes], str | None] = lambda _data: None
        """Asked of each piece of a request: None to pass it on, "cut before" it reaches the server, or "cut after":
        the server gets it and its reply never comes."""

    def __enter__(self) -> Self:
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that still waits on a number which is closed would accept for the next proxy that is given it.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """Breaks off every connection."""
        while self._pairs:
            for side in self._pairs.pop():
                _close(side)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
                self._pairs.append((client, server))
                threading.Thread(target=self._pass_on, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                while self.silent.is_set():
                    if source.fileno() < 0 or not self._listening.fileno() >= 0:
                        return
                    threading.Event().wait(0.01)
                verdict = self.on_request(data) if is_request else None
                if verdict == "cut before":
                    break
                if verdict == "cut after":
                    client = source
                    with suppress(OSError):
                        client.shutdown(socket.SHUT_WR)  # whatever comes back is not passed on
                    target.sendall(data)
                    target.recv(65536)  # the server has done it
                    break
                target.sendall(data)
        _close(source)
        _close(target)


def _close(side: socket.socket) -> None:
    with suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
    side.close()
