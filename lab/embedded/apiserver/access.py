"""Who asks, and what they may do: tokens to users, RBAC objects to decisions.

Service account tokens are JWTs signed with HMAC under a secret that derives from the lab CA's key: they outlive a
restart, and nothing else has to be kept. Must not be taken for more than a lab's.
"""

import base64
import csv
import hashlib
import hmac
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lab.embedded.apiserver.kinds import RBAC, Object
from lab.embedded.apiserver.store import Store

ISSUER = "https://kubernetes.default.svc.cluster.local"
API_AUDIENCE = ISSUER
ADMINS = "system:masters"
AUTHENTICATED = "system:authenticated"
# A clock may be this much off.
LEEWAY_S = 10


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = field(default_factory=dict)

    def info(self) -> Object:
        """Return the UserInfo of reviews."""
        info: Object = {"username": self.name, "groups": list(self.groups)}
        if self.uid:
            info["uid"] = self.uid
        if self.extra:
            info["extra"] = self.extra
        return info


@dataclass(frozen=True, slots=True)
class Action:
    """What is asked for: a verb on a resource, or on a path if `path` is given."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f'cannot {self.verb} path "{self.path}"'
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        where = f' in the namespace "{self.namespace}"' if self.namespace else " at the cluster scope"
        return f'cannot {self.verb} resource "{resource}" in API group "{self.group}"{where}'


def read_tokens(path: Path | str) -> dict[str, User]:
    """Read a token-auth-file: token,user,uid,"group,group". ValueError names a line that is none."""
    users = {}
    with Path(path).open(newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row:
                continue
            if len(row) < 3 or not row[0] or not row[1]:
                raise ValueError(f"{path}:{number}: expected token,user,uid[,groups]")
            groups = tuple(group for group in (row[3] if len(row) > 3 else "").split(",") if group)
            users[row[0].strip()] = User(row[1].strip(), row[2].strip(), (*groups, AUTHENTICATED))
    return users


class Tokens:
    """Static tokens, and those of service accounts."""

    def __init__(self, store: Store, static: dict[str, User], ca_key: bytes) -> None:
        self._store = store
        self._static = static
        self._secret = hmac.digest(ca_key, b"kubereach lab: service account tokens", "sha256")

    def issue(self, account: Object, pod: Object | None, audiences: list[str], lifetime_s: int) -> tuple[str, float]:
        """Sign a token for a ServiceAccount, bound to a pod if one is given; returns it and when it ends."""
        now = time.time()
        metadata = account["metadata"]
        claim: Object = {
            "namespace": metadata["namespace"],
            "serviceaccount": {"name": metadata["name"], "uid": metadata["uid"]},
        }
        if pod is not None:
            claim["pod"] = {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
            if pod["spec"].get("nodeName"):
                claim["node"] = {"name": pod["spec"]["nodeName"]}
        payload = {
            "aud": audiences or [API_AUDIENCE],
            "exp": int(now + lifetime_s),
            "iat": int(now),
            "nbf": int(now),
            "iss": ISSUER,
            "kubernetes.io": claim,
            "sub": f"system:serviceaccount:{metadata['namespace']}:{metadata['name']}",
        }
        text = f"{_encode({'alg': 'HS256', 'typ': 'JWT'})}.{_encode(payload)}"

        return f"{text}.{_sign(self._secret, text)}", float(int(now + lifetime_s))

    def user_of(self, token: str, audiences: Iterable[str] = (API_AUDIENCE,)) -> tuple[User, list[str]] | str:
        """Return the user and the audiences that hold, or why there is none."""
        wanted = list(audiences) or [API_AUDIENCE]
        static = self._static.get(token)
        if static is not None:
            return static, [audience for audience in wanted if audience == API_AUDIENCE] or wanted
        claims = self._claims(token)
        if claims is None:
            return "invalid bearer token"
        now = time.time()
        if claims["exp"] + LEEWAY_S < now or claims["nbf"] - LEEWAY_S > now:
            return "invalid bearer token, token has expired"
        held = [audience for audience in wanted if audience in claims["aud"]]
        if not held:
            return f"token audiences {claims['aud']} is invalid for the target audiences {wanted}"
        user = self._account(claims)
        return (user, held) if isinstance(user, User) else user

    def _claims(self, token: str) -> dict[str, Any] | None:
        text, _, signature = token.rpartition(".")
        if not text or not hmac.compare_digest(signature.encode(), _sign(self._secret, text).encode()):
            return None
        body = text.partition(".")[2]
        claims: dict[str, Any] = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return claims

    def _account(self, claims: dict[str, Any]) -> User | str:
        """An account or pod that is gone takes its tokens along."""
        claim = claims["kubernetes.io"]
        namespace, account, pod = claim["namespace"], claim["serviceaccount"], claim.get("pod")
        entry = self._store.get("serviceaccounts", (namespace, account["name"]))
        if entry is None or entry.item["metadata"]["uid"] != account["uid"]:
            return "service account has been deleted"
        extra = {}
        if pod is not None:
            kept = self._store.get("pods", (namespace, pod["name"]))
            if kept is None or kept.item["metadata"]["uid"] != pod["uid"]:
                return "service account token has been invalidated: its pod is gone"
            extra["authentication.kubernetes.io/pod-name"] = [pod["name"]]
            extra["authentication.kubernetes.io/pod-uid"] = [pod["uid"]]
            if "node" in claim:
                extra["authentication.kubernetes.io/node-name"] = [claim["node"]["name"]]
        return User(claims["sub"], account["uid"], implied_groups(claims["sub"]), extra)


def implied_groups(name: str) -> tuple[str, ...]:
    """Return the groups that follow from a user's name."""
    parts = name.split(":")
    if len(parts) == 4 and name.startswith("system:serviceaccount:"):
        return "system:serviceaccounts", f"system:serviceaccounts:{parts[2]}", AUTHENTICATED
    return (AUTHENTICATED,)


def _encode(value: object) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()


def _sign(secret: bytes, text: str) -> str:
    digest = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def rules_for(store: Store, user: User, namespace: str) -> Iterable[tuple[str, Object]]:
    """The rules that hold for a user in a namespace ("" for the cluster), each with its reason."""
    scopes = [("clusterrolebindings", None)] + ([("rolebindings", namespace)] if namespace else [])
    for plural, where in scopes:
        for key, entry in store.entries(f"{RBAC}/{plural}", where):
            if any(_is_subject(user, subject, key[0]) for subject in entry.item.get("subjects") or ()):
                reference = entry.item["roleRef"]
                shelf = "clusterroles" if reference["kind"] == "ClusterRole" else "roles"
                role = store.get(f"{RBAC}/{shelf}", ("" if shelf == "clusterroles" else key[0], reference["name"]))
                for rule in (role.item.get("rules") or ()) if role is not None else ():
                    yield f'RBAC: allowed by {entry.item["kind"]} "{"/".join(filter(None, key))}"', rule


def decide(store: Store, user: User, action: Action) -> tuple[bool, str]:
    """Decide by RBAC; the reason is empty where nothing allows it."""
    if ADMINS in user.groups:
        return True, ""
    for reason, rule in rules_for(store, user, action.namespace):
        if _covers(rule, action):
            return True, f"{reason} to {user.name}"
    return False, ""


def _is_subject(user: User, subject: Object, namespace: str) -> bool:
    kind, name = subject.get("kind"), subject.get("name")
    if kind == "Group":
        return name in user.groups
    if kind == "ServiceAccount":
        return user.name == f"system:serviceaccount:{subject.get('namespace') or namespace}:{name}"
    return kind == "User" and name == user.name


def _covers(rule: Object, action: Action) -> bool:
    verbs = rule.get("verbs") or ()
    if action.verb not in verbs and "*" not in verbs:
        return False
    if action.path:
        return any(
            path in ("*", action.path) or (path.endswith("*") and action.path.startswith(path[:-1]))
            for path in rule.get("nonResourceURLs") or ()
        )
    groups, resources, named = rule.get("apiGroups") or (), rule.get("resources") or (), rule.get("resourceNames")
    if action.group not in groups and "*" not in groups:
        return False
    full = f"{action.resource}/{action.subresource}" if action.subresource else action.resource
    if not {full, "*", f"*/{action.subresource}" if action.subresource else "*"} & set(resources):
        return False
    return not named or action.name in named
