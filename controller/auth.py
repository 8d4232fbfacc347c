"""Who may speak: agents and people show a bearer token, Kubernetes says whose it is and what that one may do.

Tokens are remembered by their hash alone, and for a short while. When the API does not answer, whoever was known goes
on for LINGER_S: an outage of the control plane must not blind the view that would explain it. A refusal stands.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from controller.cluster.api import ApiError
from controller.cluster.state import ClusterState
from model.clock import Clock

AGENT_AUDIENCE: Final = "kubereach"
AGENT_CACHE_S: Final = 60.0
PERSON_CACHE_S: Final = 30.0
LINGER_S: Final = 600.0
REVIEW_S: Final = 5.0
# Whoever was let in before does not wait that long for an API that is away, nor at every request.
REVIEW_KNOWN_S: Final = 2.0
SILENT_S: Final = 10.0
MAX_CACHED: Final = 10_000
MAX_TOKEN: Final = 16_384
NODE_CLAIM: Final = "authentication.kubernetes.io/node-name"
POD_CLAIM: Final = "authentication.kubernetes.io/pod-uid"
MAX_REVIEWS: Final = 16
READ, PROBE = "/kubereach/read", "/kubereach/probe"
VERBS: Mapping[str, str] = {READ: "get", PROBE: "create"}


class Api(Protocol):
    """The part of the Kubernetes API that reviews need."""

    async def post(self, path: str, body: dict[str, Any], timeout_s: float = ...) -> dict[str, Any]:
        """One POST; raises ApiError."""
        ...


class DeniedError(Exception):
    """The caller is not let in: HTTP status (401 unknown, 403 known but not allowed, 503 cannot be found out)."""

    def __init__(self, status: int, text: str, hint: str = "") -> None:
        """`text` says what was refused, `hint` the way out."""
        super().__init__(text)
        self.status = status
        self.text = text
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Identity:
    """A user as Kubernetes names it. `extra` has the claims of a bound ServiceAccount token."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] | None = None

    def claim(self, key: str) -> str:
        """A claim of the token, "" if it does not have it."""
        return next(iter((self.extra or {}).get(key, ())), "")


@dataclass(frozen=True, slots=True)
class _Kept:
    value: object
    at: float


class _Cache:
    """Answers by key, bounded, each for a while. Only answers that let somebody in are kept."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        # Strangers with made-up tokens must not keep the API server busy.
        self._few = asyncio.Semaphore(MAX_REVIEWS)
        self._silent_at = -SILENT_S
        self._asked: set[asyncio.Future[object]] = set()

    async def get(self, key: str, lasts_s: float, ask: Callable[[], Awaitable[object]]) -> object:
        now = self._clock.monotonic()
        kept = self._kept.get(key)
        if kept is not None and now - kept.at >= LINGER_S:
            kept = None
        if kept is not None and (now - kept.at < lasts_s or now - self._silent_at < SILENT_S):
            return kept.value
        try:
            async with self._few:
                value = await self._within(ask, REVIEW_S if kept is None else REVIEW_KNOWN_S)
        except ApiError as error:
            if error.status == 0:
                self._silent_at = self._clock.monotonic()
                if kept is not None:
                    return kept.value
            raise DeniedError(503, f"the Kubernetes API cannot review the token: {error}", "try again") from None
        except DeniedError:
            self._kept.pop(key, None)
            raise
        if len(self._kept) >= MAX_CACHED:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = _Kept(value, now)
        return value

    async def _within(self, ask: Callable[[], Awaitable[object]], limit_s: float) -> object:
        """The answer, or ApiError after `limit_s`, also where the request itself takes long to give up (TLS does)."""
        asked = asyncio.ensure_future(ask())
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)
        try:
            done, _ = await asyncio.wait({asked}, timeout=limit_s)
        except asyncio.CancelledError:
            asked.cancel()
            raise
        if not done:
            asked.cancel()
            raise ApiError(0, f"no answer within {limit_s:g} s")
        return asked.result()


class Authenticator:
    """Lets agents and people in, or raises DeniedError."""

    def __init__(self, api: Api, clock: Clock, namespace: str, agent_account: str) -> None:
        """Agents are system:serviceaccount:`namespace`:`agent_account`."""
        self._api = api
        self._cache = _Cache(clock)
        self._agent = f"system:serviceaccount:{namespace}:{agent_account}"

    async def agent(self, token: str) -> Identity:
        """An agent; of which node, `check_node` tells once it has said so."""
        identity = await self._identity(token, (AGENT_AUDIENCE,), AGENT_CACHE_S)
        if identity.name != self._agent:
            raise DeniedError(403, f"{identity.name} is no agent", f"agents are {self._agent}")
        return identity

    async def person(self, token: str, path: str) -> Identity:
        """Someone who may READ or PROBE: any user whom RBAC allows the non-resource URL of that name."""
        identity = await self._identity(token, (), PERSON_CACHE_S)
        key = f"{path} {_hash(token)}"

        async def ask() -> object:
            await self._review_access(identity, path)
            return True

        await self._cache.get(key, PERSON_CACHE_S, ask)
        return identity

    async def _identity(self, token: str, audiences: tuple[str, ...], lasts_s: float) -> Identity:
        if not token:
            raise DeniedError(401, "a bearer token is needed", "send Authorization: Bearer TOKEN")
        if len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable():
            raise DeniedError(401, "that is no token")

        async def ask() -> object:
            return await self._review_token(token, audiences)

        found = await self._cache.get(f"{audiences} {_hash(token)}", lasts_s, ask)
        assert isinstance(found, Identity)
        return found

    async def _review_token(self, token: str, audiences: tuple[str, ...]) -> Identity:
        spec: dict[str, Any] = {"token": token}
        if audiences:
            spec["audiences"] = list(audiences)
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        answer = await self._api.post("/apis/authentication.k8s.io/v1/tokenreviews", body, REVIEW_S)
        status = answer.get("status") or {}
        if not status.get("authenticated"):
            raise DeniedError(401, "the token is not valid", status.get("error") or "it may have expired")
        # A server that knows no audiences answers without them; then the token is not meant for us alone.
        if audiences and not set(audiences) & set(status.get("audiences") or ()):
            raise DeniedError(401, f"the token is not meant for {' '.join(audiences)}", "project it with that audience")
        user = status.get("user") or {}
        extra = {key: tuple(values) for key, values in (user.get("extra") or {}).items()}
        return Identity(str(user.get("username", "")), tuple(user.get("groups") or ()), str(user.get("uid", "")), extra)

    async def _review_access(self, identity: Identity, path: str) -> None:
        spec = {
            "user": identity.name,
            "groups": list(identity.groups),
            "uid": identity.uid,
            "extra": {key: list(values) for key, values in (identity.extra or {}).items()},
            "nonResourceAttributes": {"path": path, "verb": VERBS[path]},
        }
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = await self._api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", body, REVIEW_S)
        if not (answer.get("status") or {}).get("allowed"):
            raise DeniedError(
                403,
                f"{identity.name} may not {VERBS[path]} {path}",
                f"a ClusterRole with nonResourceURLs [{path}] and verbs [{VERBS[path]}] allows it",
            )


def check_node(identity: Identity, node: str, cluster: ClusterState) -> None:
    """Whether an agent may speak for `node`: that of its token, where the token is bound to a node or a pod.

    Raises DeniedError.
    """
    pod = cluster.pods.get(identity.claim(POD_CLAIM))
    bound = identity.claim(NODE_CLAIM) or (pod.node if pod is not None else "")
    if bound and bound != node:
        raise DeniedError(403, f"the token belongs to node {bound}, not to {node!r}")
    if cluster.synced and node not in cluster.nodes:
        raise DeniedError(403, f"the cluster has no node {node!r}")


def bearer(header: str) -> str:
    """The token of an Authorization header, "" if it has none."""
    scheme, _, token = header.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
