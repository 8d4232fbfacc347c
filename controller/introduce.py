"""How agents come to know the controller: a ConfigMap with its node's addresses and authority, mounted into each.

The kubelet brings it, so an agent needs neither API server, cluster DNS nor kube-proxy for it. Certificate and
authority are kept in a Secret, or are given as files (cert-manager's), which this module then only publishes. Both
objects come with the installation, empty: what the controller may do is change these two, never make others.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from controller.cluster.api import ApiError, KubeApi
from controller.tls import Material, Pair, renewed

log = logging.getLogger(__name__)

EVERY_S: Final = 60.0
ATTEMPTS: Final = 5
REQUEST_S: Final = 5.0
FILE: Final = "controller.json"
CA: Final = "ca.crt"
_FIELDS: Final = (
    ("ca.crt", "ca", "certificate"),
    ("ca.key", "ca", "key"),
    ("next-ca.crt", "next_ca", "certificate"),
    ("next-ca.key", "next_ca", "key"),
    ("tls.crt", "server", "certificate"),
    ("tls.key", "server", "key"),
)


@dataclass(frozen=True, slots=True)
class Introduction:
    """What to publish and where. `secret` is "" where the certificate is given as files; `ca` is then its authority."""

    namespace: str
    config_map: str
    secret: str
    addresses: tuple[str, ...]
    port: int
    server_name: str
    ca: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the certificate is valid for."""
        service = self.server_name.partition(".")[0]
        own = (self.server_name, service, f"{service}.{self.namespace}", "localhost", "127.0.0.1", "::1")
        return tuple(dict.fromkeys((*own, *self.addresses)))


class Introducer:
    """Keeps the two objects as they should be, and the server's TLS with them."""

    def __init__(self, api: KubeApi, what: Introduction, tls: ssl.SSLContext) -> None:
        """`tls` gets the certificate of the Secret; one from files is loaded by the caller."""
        self._api = api
        self._what = what
        self._tls = tls
        self._loaded = Pair()

    async def begin(self) -> None:
        """Publishes before anything listens. Raises ApiError, OSError."""
        await self._once()

    async def run(self) -> None:
        """Looks once a minute, until it is cancelled; a failure is told and tried again."""
        failed = False
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self._once()
                failed = False
            except (ApiError, OSError) as error:
                log.log(logging.DEBUG if failed else logging.WARNING, "cannot introduce the controller: %s", error)
                failed = True

    async def _once(self) -> None:
        what = self._what
        if what.secret:
            material = await self._material()
            if material.server != self._loaded:
                _load(self._tls, material.server)
                self._loaded = material.server
            bundle = material.bundle
        else:
            bundle = what.ca.read_bytes() if what.ca is not None else b""
        await self._publish(bundle.decode())

    async def _material(self) -> Material:
        """The Secret's, renewed where that is needed. Of two controllers that do so at once, one reads the other's."""
        path = f"/api/v1/namespaces/{self._what.namespace}/secrets/{self._what.secret}"
        for attempt in range(ATTEMPTS):
            secret = await _read(self._api, path)
            held = decoded(secret.get("data") or {})
            material = renewed(held, self._what.names)
            if material == held:
                return held
            # What others keep in this Secret stays there.
            kept = {key: text for key, text in (secret.get("data") or {}).items() if key not in _KEYS}
            secret["data"] = kept | encoded(material)
            if await _replaced(self._api, path, secret, last=attempt == ATTEMPTS - 1):
                log.info("certificate renewed in Secret %s/%s", self._what.namespace, self._what.secret)
                return material
        raise AssertionError("the last attempt raises")

    async def _publish(self, bundle: str) -> None:
        path = f"/api/v1/namespaces/{self._what.namespace}/configmaps/{self._what.config_map}"
        wanted = {FILE: document(self._what, bundle), CA: bundle}
        for attempt in range(ATTEMPTS):
            found = await _read(self._api, path)
            if wanted.items() <= (found.get("data") or {}).items():
                return
            found["data"] = (found.get("data") or {}) | wanted
            if await _replaced(self._api, path, found, last=attempt == ATTEMPTS - 1):
                log.info("published %s in ConfigMap %s", ", ".join(self._what.addresses), self._what.config_map)
                return


_KEYS: Final = frozenset(key for key, _, _ in _FIELDS)


def document(what: Introduction, bundle: str) -> str:
    """The file that agents read: `agent.introduction` is its reader."""
    addresses = [f"[{one}]:{what.port}" if ":" in one else f"{one}:{what.port}" for one in what.addresses]
    return msgspec.json.encode({"addresses": addresses, "server_name": what.server_name, "ca": bundle}).decode()


def decoded(data: dict[str, Any]) -> Material:
    """A Secret's data as material; what is missing or no base64 is empty, and so made anew."""

    def field(key: str) -> bytes:
        try:
            return base64.b64decode(str(data.get(key) or ""), validate=True)
        except binascii.Error:
            return b""

    held = {(part, which): field(key) for key, part, which in _FIELDS}
    pairs = {part: Pair(held[part, "certificate"], held[part, "key"]) for part in ("ca", "next_ca", "server")}
    return Material(**pairs)


def encoded(material: Material) -> dict[str, str]:
    """Material as a Secret's data; empty parts are left out."""
    fields = {key: getattr(getattr(material, part), which) for key, part, which in _FIELDS}
    return {key: base64.b64encode(value).decode() for key, value in fields.items() if value}


async def _read(api: KubeApi, path: str) -> dict[str, Any]:
    try:
        return await api.get(path, timeout_s=REQUEST_S)
    except ApiError as error:
        if error.status == 404:
            raise ApiError(404, f"{error.message}; it belongs to the installation: apply it again") from None
        raise


async def _replaced(api: KubeApi, path: str, body: dict[str, Any], *, last: bool) -> bool:
    """False where somebody else was quicker; then it has to be read again."""
    try:
        await api.put(path, body, REQUEST_S)
    except ApiError as error:
        if error.status == 409 and not last:
            return False
        raise
    return True


def _load(context: ssl.SSLContext, pair: Pair) -> None:
    """OpenSSL reads certificates from files alone: one that only we can read, for as long as this takes."""
    descriptor, name = tempfile.mkstemp(prefix="kubereach-", suffix=".pem")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pair.key + pair.certificate)
        context.load_cert_chain(name)
    finally:
        with contextlib.suppress(OSError):
            Path(name).unlink()
