"""The TUI in a browser, on this machine only, whatever the mesh is. Each window is a process of its own."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from textual_serve.server import Server

from tiermesh import wire

HOST: Final = "127.0.0.1"
CREDENTIALS: Final = wire.LOOPBACK
"""Also where the mesh is a trusted LAN: whoever opens a window acts as this user, and there is no login."""
_NAMES: Final = (HOST, "localhost")


class LoopbackServer(Server):
    """Serves the app that `command` starts to browsers of this machine that were pointed at it.

    Browsers let any page open a socket to this machine, so requests must name this server as their host, and must come
    from its own page: else a page somewhere could press keys here.
    """

    def __init__(self, command: str, port: int) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - an os.PathLike of its
            command, host=HOST, port=port, title="Tiermesh"
        )

    def serve(self, debug: bool = False) -> None:
        """Serve until SIGINT or SIGTERM.

        Raises:
            TiermeshError: the port is taken.
        """
        self.debug = debug
        self.initialize_logging()
        listening = wire.listening_socket(CREDENTIALS, self.host, self.port)
        security = CREDENTIALS.socket_security()
        web.run_app(self._make_app(), sock=listening, ssl_context=security, print=None)

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        hosts = {f"{name}:{self.port}" for name in _NAMES}
        app.middlewares.append(_only_from(hosts))
        return app


def _only_from(hosts: set[str]) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        foreign = origin is not None and origin.removeprefix("http://") not in hosts
        if foreign or request.headers.get("Host") not in hosts:
            raise web.HTTPForbidden(
                text="only browsers on this machine may connect, through its own page"
            )
        return await handler(request)

    return check
