"""The current kubeconfig as kubectl reads it: which API server, how it is trusted, and who asks.

Source: kubernetes.io "Organizing Cluster Access Using kubeconfig Files" and client.authentication.k8s.io/v1. Read here
rather than by the kubernetes library, whose import alone costs more time than the whole command. Sends nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import ssl
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from cli.client import ConfigError

EXEC_S: Final = 60.0
EXEC_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: a bearer token, or a client certificate with its key (PEM), or neither."""

    token: str = ""
    certificate: bytes = b""
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class Cluster:
    """An API server; `ca` is PEM, "" for the system's authorities. `origin` says where this comes from."""

    server: str
    ca: str
    server_name: str
    verify: bool
    identity: Identity
    origin: str

    def tls(self) -> ssl.SSLContext:
        """Trust in the API server, and the client's certificate. Raises ConfigError."""
        try:
            context = ssl.create_default_context(cadata=self.ca or None)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.identity.certificate:
                _load(context, self.identity)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the certificates of {self.origin} cannot be used: {error}") from None
        return context


def load(paths: list[Path]) -> Cluster:
    """The cluster and user of the current context. Runs the user's credential plugin. Raises ConfigError."""
    merged, homes = _merged(paths)
    origin = "kubeconfig " + ", ".join(str(path) for path in paths)
    context_name = merged["current-context"]
    context = _named(merged, "contexts", context_name, "context", origin)
    cluster = _named(merged, "clusters", str(context.get("cluster") or ""), "cluster", origin)
    user_name = str(context.get("user") or "")
    user = _named(merged, "users", user_name, "user", origin) if user_name else {}
    home = homes.get(("clusters", str(context.get("cluster") or "")), Path())
    server = str(cluster.get("server") or "")
    if not server.startswith(("https://", "http://")):
        raise ConfigError(f"{origin}: the cluster of context '{context_name}' has no server")
    ca = _content(cluster, "certificate-authority", home, origin)
    return Cluster(
        server=server.rstrip("/"),
        ca=ca.decode("ascii", "replace"),
        server_name=str(cluster.get("tls-server-name") or ""),
        verify=not cluster.get("insecure-skip-tls-verify"),
        identity=_identity(user, homes.get(("users", user_name), Path()), cluster, origin),
        origin=f"{origin} (context {context_name})",
    )


def _merged(paths: list[Path]) -> tuple[Raw, dict[tuple[str, str], Path]]:
    """All files as one: the first that names something wins. And the folder of each entry, for its relative paths."""
    merged: Raw = {"current-context": "", "clusters": [], "contexts": [], "users": []}
    homes: dict[tuple[str, str], Path] = {}
    for path in paths:
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"the kubeconfig '{path}' cannot be read: {' '.join(str(error).split())}") from None
        raw = {} if raw is None else raw
        if not isinstance(raw, dict):
            raise ConfigError(f"the kubeconfig '{path}' is no kubeconfig")
        merged["current-context"] = merged["current-context"] or str(raw.get("current-context") or "")
        for kind in ("clusters", "contexts", "users"):
            for entry in raw.get(kind) or ():
                if isinstance(entry, dict) and (kind, str(entry.get("name"))) not in homes:
                    homes[kind, str(entry.get("name"))] = path.parent
                    merged[kind].append(entry)
    return merged, homes


def _named(merged: Raw, kind: str, name: str, part: str, origin: str) -> Raw:
    for entry in merged[kind]:
        if entry.get("name") == name and isinstance(entry.get(part), dict):
            found: Raw = entry[part]
            return found
    what = f"{part} '{name}'" if name else "current context"
    raise ConfigError(f"{origin} has no {what}; see kubectl config get-contexts")


def _content(entry: Raw, name: str, home: Path, origin: str) -> bytes:
    """NAME-data, or what the file NAME holds; empty if there is neither."""
    try:
        if entry.get(f"{name}-data"):
            return base64.b64decode(str(entry[f"{name}-data"]), validate=True)
        return (home / str(entry[name])).read_bytes() if entry.get(name) else b""
    except (OSError, binascii.Error) as error:
        raise ConfigError(f"{origin}: {name}: {error}") from None


def _identity(user: Raw, home: Path, cluster: Raw, origin: str) -> Identity:
    if user.get("exec"):
        return _from_plugin(user["exec"], home, cluster, origin)
    token = str(user.get("token") or "")
    if user.get("tokenFile"):
        try:
            token = (home / str(user["tokenFile"])).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{origin}: tokenFile: {error}") from None
    certificate = _content(user, "client-certificate", home, origin)
    key = _content(user, "client-key", home, origin)
    if not token and not certificate and user.get("auth-provider"):
        raise ConfigError(f"{origin}: auth-provider is not known any more; use a credential plugin (exec)")
    return Identity(token, certificate, key)


def _from_plugin(plugin: Raw, home: Path, cluster: Raw, origin: str) -> Identity:
    """What a client-go credential plugin answers."""
    version = str(plugin.get("apiVersion") or "")
    if version not in EXEC_VERSIONS:
        raise ConfigError(f"{origin}: the credential plugin speaks {version or 'nothing'}, not {EXEC_VERSIONS[0]}")
    info: Raw = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": os.isatty(0)}}
    if plugin.get("provideClusterInfo"):
        known = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data")
        info["spec"]["cluster"] = {key: cluster[key] for key in known if key in cluster}
    named = {str(one.get("name")): str(one.get("value")) for one in plugin.get("env") or () if isinstance(one, dict)}
    command = str(plugin.get("command") or "")
    # As client-go does it: a relative path is relative to the kubeconfig, a bare name is looked up in PATH.
    command = str(home / command) if "/" in command and not command.startswith("/") else command
    try:
        done = subprocess.run(
            [command, *(str(word) for word in plugin.get("args") or ())],
            env={**os.environ, **named, "KUBERNETES_EXEC_INFO": json.dumps(info)},
            stdout=subprocess.PIPE,
            timeout=EXEC_S,
            check=True,
        )
        status = json.loads(done.stdout)["status"]
    except FileNotFoundError:
        hint = str(plugin.get("installHint") or "install it").strip()
        raise ConfigError(f"{origin}: the credential plugin '{command}' is not there: {hint}") from None
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{origin}: the credential plugin '{command}' gives nothing: {error}") from None
    certificate, key = (str(status.get(name) or "") for name in ("clientCertificateData", "clientKeyData"))
    return Identity(str(status.get("token") or ""), certificate.encode(), key.encode())


def _load(context: ssl.SSLContext, identity: Identity) -> None:
    """OpenSSL reads certificates from files alone: one that only we can read, for as long as this takes."""
    descriptor, name = tempfile.mkstemp(prefix="kubereach-", suffix=".pem")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(identity.key + b"\n" + identity.certificate)
        context.load_cert_chain(name)
    finally:
        with suppress(OSError):
            Path(name).unlink()
