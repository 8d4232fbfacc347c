"""How handlers answer and refuse."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

_encoder = msgspec.json.Encoder()


class BadRequestError(Exception):
    """The request cannot be understood: HTTP status, what is wrong, the way out."""

    def __init__(self, status: int, error: str, hint: str = "") -> None:
        """`error` names the field."""
        super().__init__(error)
        self.status = status
        self.error = error
        self.hint = hint


def answer(data: Any, status: int = 200) -> web.Response:
    """A JSON answer, which nobody may keep."""
    return web.Response(
        body=_encoder.encode(data),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
