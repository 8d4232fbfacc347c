"""Questions that are answered and never kept: tokens and access.

Source: authentication.k8s.io/v1 and authorization.k8s.io/v1.
"""

from datetime import UTC, datetime

from lab.embedded.apiserver.access import (
    ADMINS,
    API_AUDIENCE,
    Action,
    Tokens,
    User,
    decide,
    rules_for,
)
from lab.embedded.apiserver.errors import Refusal, invalid, invalid_value
from lab.embedded.apiserver.kinds import BY_KEY, Kind, Object
from lab.embedded.apiserver.registry import now
from lab.embedded.apiserver.store import Store

SHORTEST_TOKEN_S = 600
LONGEST_TOKEN_S = 2**32


def review(kind: Kind, namespace: str, body: Object, user: User, *, store: Store, tokens: Tokens) -> Object:
    """Answer a review: the body with its status."""
    spec = body.get("spec") or {}
    if kind.name == "TokenReview":
        status = _token(spec, tokens)
    elif kind.name == "SelfSubjectReview":
        status = {"userInfo": user.info()}
    elif kind.name == "SelfSubjectRulesReview":
        status = _rules(spec.get("namespace") or "", user, store)
    else:
        asker = user
        if kind.name != "SelfSubjectAccessReview":
            if not spec.get("user") and not spec.get("groups"):
                detail = "at least one of user or group must be specified"
                raise invalid(kind, "", [invalid_value("spec.user", "", detail)])
            asker = User(spec.get("user", ""), spec.get("uid", ""), tuple(spec.get("groups") or ()))
        status = _access(kind, namespace, spec, asker, store)
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {"creationTimestamp": now()},
        "spec": spec,
        "status": status,
    }


def request_token(account: Object, body: Object, store: Store, tokens: Tokens) -> Object:
    """Answer a TokenRequest for a ServiceAccount."""
    spec = body.get("spec") or {}
    kind = BY_KEY["serviceaccounts"]
    lifetime_s = spec.get("expirationSeconds") or 3600
    if not SHORTEST_TOKEN_S <= lifetime_s <= LONGEST_TOKEN_S:
        detail = "may not specify a duration less than 10 minutes or more than 2^32 seconds"
        name = account["metadata"]["name"]
        raise invalid(kind, name, [invalid_value("spec.expirationSeconds", lifetime_s, detail)])
    audiences = spec.get("audiences") or [API_AUDIENCE]
    pod = _bound_pod(spec.get("boundObjectRef"), account["metadata"]["namespace"], store)
    token, ends = tokens.issue(account, pod, audiences, lifetime_s)
    expiry = datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {
            "name": account["metadata"]["name"],
            "namespace": account["metadata"]["namespace"],
            "creationTimestamp": now(),
        },
        "spec": {**spec, "audiences": audiences, "expirationSeconds": lifetime_s},
        "status": {"token": token, "expirationTimestamp": expiry},
    }


def _bound_pod(reference: Object | None, namespace: str, store: Store) -> Object | None:
    if not reference:
        return None
    if reference.get("kind") != "Pod":
        raise Refusal(400, f"cannot bind token to a {reference.get('kind')}: pods only")
    entry = store.get("pods", (namespace, reference.get("name", "")))
    if entry is None or reference.get("uid") not in (None, "", entry.item["metadata"]["uid"]):
        raise Refusal(404, f'pods "{reference.get("name")}" not found')
    return entry.item


def _token(spec: Object, tokens: Tokens) -> Object:
    found = tokens.user_of(spec.get("token", ""), spec.get("audiences") or ())
    if isinstance(found, str):
        return {"authenticated": False, "user": {}, "error": found}
    user, audiences = found
    return {"authenticated": True, "user": user.info(), "audiences": audiences}


def _access(kind: Kind, namespace: str, spec: Object, asker: User, store: Store) -> Object:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) == (path is None):
        detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        raise invalid(kind, "", [invalid_value("spec.resourceAttributes", "", detail)])
    if resource is not None:
        action = Action(
            resource.get("verb", ""),
            resource.get("group", ""),
            resource.get("resource", ""),
            resource.get("subresource", ""),
            resource.get("namespace", "") or namespace,
            resource.get("name", ""),
        )
    else:
        action = Action((path or {}).get("verb", ""), path=(path or {}).get("path", ""))
    allowed, reason = decide(store, asker, action)
    return {"allowed": allowed, **({"reason": reason} if reason else {})}


def _rules(namespace: str, user: User, store: Store) -> Object:
    rules = [rule for _, rule in rules_for(store, user, namespace)]
    if ADMINS in user.groups:
        rules.append({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
        rules.append({"verbs": ["*"], "nonResourceURLs": ["*"]})
    return {
        "resourceRules": [rule for rule in rules if not rule.get("nonResourceURLs")],
        "nonResourceRules": [rule for rule in rules if rule.get("nonResourceURLs")],
        "incomplete": False,
    }
