"""The web server: Uvicorn, on a socket that is bound before anything is told, so that the address told is right."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

__all__ = ["bind", "serve"]


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at `host` and `port` (0: any that is free). Raises OSError, saying which is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host.strip("[]"), port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise OSError(f"{host}:{port} cannot be used ({error.strerror}); --port 0 takes any that is free") from error
    return bound


def serve(app: ASGIApp, bound: socket.socket, started: Callable[[], None] = lambda: None) -> None:
    """Answers until it is interrupted. `started` is called once it does."""
    server = _Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # addresses hold accounts
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
    )
    server.when_started = started
    server.run(sockets=[bound])


class _Server(uvicorn.Server):
    when_started: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.when_started()
