"""The HTTP server: routes, the same manners for all of them, and an end that does not hang on open streams."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from controller.auth import DeniedError
from controller.diagnosis.asked import TargetError
from controller.web.agent_socket import agent
from controller.web.documents import Error
from controller.web.handlers import ROUTES, Handler
from controller.web.replies import BadRequestError, answer
from controller.web.services import SERVICES, Services

log = logging.getLogger(__name__)

BODY_LIMIT: Final = 1024 * 1024
STATIC: Final = Path(__file__).parent / "static"
SHUTDOWN_S: Final = 2.0
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
NAMES: Final = {
    404: "there is nothing at {path}",
    405: "{method} is not possible at {path}",
    413: f"the body is larger than {BODY_LIMIT} octets",
}


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on, with TLS or without."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


def make_app(services: Services) -> web.Application:
    """The application. The page and the description of the API are open to everybody; all else wants a token."""
    app = web.Application(client_max_size=BODY_LIMIT, middlewares=(_manners,))
    app[SERVICES] = services
    for method, path, handler in ROUTES:
        app.router.add_route(method, path, handler)
    app.router.add_get("/api/v1/agent", agent)
    app.router.add_get("/", _page)
    app.router.add_static("/static/", STATIC)
    app.on_response_prepare.append(_secure)
    return app


async def _page(_: web.Request) -> web.StreamResponse:
    return web.FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


async def _secure(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)


@web.middleware
async def _manners(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every refusal into `Error`, and counts."""
    services = request.app[SERVICES]
    try:
        response = await handler(request)
    except web.HTTPException as error:
        response = _http(request, error)
    except Exception as error:  # one request must not take the others with it
        response = _refusal(request, error)
    resource = request.match_info.route.resource
    key = (resource.canonical if resource is not None else "other", response.status)
    services.counts.requests[key] = services.counts.requests.get(key, 0) + 1
    return response


def _http(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    if error.status < 400:
        return error
    text = NAMES.get(error.status, error.reason).format(method=request.method, path=request.path)
    hint = "GET /openapi.json describes what there is" if error.status in (404, 405) else ""
    return answer(Error(text, hint), error.status)


def _refusal(request: web.Request, error: Exception) -> web.StreamResponse:
    match error:
        case DeniedError():
            response = answer(Error(error.text, error.hint), error.status)
            if error.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
            return response
        case BadRequestError():
            return answer(Error(error.error, error.hint), error.status)
        case TargetError():
            return answer(Error(str(error), error.hint), 404 if error.missing else 422)
        case msgspec.ValidationError():
            return answer(Error(f"the body does not fit: {error}", "GET /openapi.json describes it"), 422)
        case msgspec.DecodeError() | UnicodeDecodeError():
            return answer(Error(f"the body is no JSON: {error}"), 400)
        case TimeoutError():
            return answer(Error("no answer in time", "try again"), 504)
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return answer(Error("the controller itself failed; its log says more"), 500)


class Server:
    """The application on its addresses."""

    def __init__(self, services: Services, listen: Sequence[Listen]) -> None:
        """Nothing listens before `start`."""
        self._services = services
        self._listen = listen
        self._runner = web.AppRunner(make_app(services), access_log=None, shutdown_timeout=SHUTDOWN_S)
        self.ports: tuple[int, ...] = ()

    async def start(self) -> None:
        """Listens. Raises OSError that names the address."""
        await self._runner.setup()
        for where in self._listen:
            await web.TCPSite(self._runner, where.host, where.port, ssl_context=where.tls).start()
        self.ports = tuple(address[1] for address in self._runner.addresses)

    async def stop(self) -> None:
        """Ends open streams and sockets first, since `cleanup` would wait for them for a minute."""
        self._services.hub.close()
        self._services.agents.close("the controller ends")
        await self._runner.cleanup()
