"""Where the controller is and what proves that it is it: named on the command line, or told by a file.

The file is a ConfigMap's, which the kubelet mounts and refreshes (`controller.introduce` writes it); it is looked at
anew at every connect. Must not resolve names: addresses are literal, so that no cluster DNS is leant on.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agent.log import log
from model.ports import CONTROLLER_PORT

MAX_BYTES: Final = 1 << 20
Address = tuple[str, int]


class IntroductionError(RuntimeError):
    """The controller's authority cannot be read; the text says why."""


class _File(msgspec.Struct, frozen=True):
    addresses: tuple[str, ...] = ()
    server_name: str = ""
    ca: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """`server_name` is what the certificate must be valid for; "" means the address itself."""

    addresses: tuple[Address, ...] = ()
    server_name: str = ""
    ca: str = ""


class Introduction:
    """Gives the newest account of the controller. What could once be read stays known when the file is gone."""

    def __init__(self, named: tuple[Address, ...], ca_file: str, told_by: str) -> None:
        """`named` and `ca_file` are the command line's; `told_by` the file, "" if there is none."""
        self._ca_file = ca_file
        self._path = Path(told_by) if told_by else None
        self._known = Known(named)
        self._read: tuple[int, int] | None = None
        self._tls: tuple[str, ssl.SSLContext] | None = None

    def known(self) -> Known:
        """The controller as the file has it now."""
        if self._path is not None:
            try:
                status = self._path.stat()
                if (version := (status.st_ino, status.st_mtime_ns)) != self._read and status.st_size <= MAX_BYTES:
                    self._known, self._read = _decoded(self._path.read_bytes()), version
            except (OSError, ValueError, msgspec.MsgspecError) as error:
                log("warning", "cannot read where the controller is", file=self._path, reason=error)
        return self._known

    def tls(self) -> ssl.SSLContext:
        """Trust in the controller's authority alone; made anew when that has changed. Raises IntroductionError."""
        ca = self.known().ca
        if self._tls is None or self._tls[0] != ca:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            try:
                if ca:
                    context.load_verify_locations(cadata=ca)
                else:
                    context.load_verify_locations(self._ca_file)
            except (OSError, ValueError) as error:
                raise IntroductionError(f"cannot read the controller's CA: {error}") from None
            self._tls = (ca, context)
        return self._tls[1]


def _decoded(raw: bytes) -> Known:
    told = msgspec.json.decode(raw, type=_File)
    return Known(tuple(host_port(text, CONTROLLER_PORT) for text in told.addresses), told.server_name, told.ca)


def host_port(text: str, default_port: int) -> Address:
    """Split ADDRESS[:PORT] or [ADDRESS][:PORT]. Raises ValueError where the address is no literal one."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        raise ValueError(f"{text!r} is no ADDRESS:PORT") from None
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} has no valid port")
    return host, int(port) if port else default_port
