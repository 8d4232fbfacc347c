"""Where the controller is: what the user names first, then the environment, the only lab that runs, the kubeconfig.

As kubectl's plugin it means the cluster that kubectl means: there the kubeconfig goes before a lab that happens to run.

It reads the labs' own account (`lab.state`); over the network it asks the Kubernetes API of a kubeconfig alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

from cli.client import Access, ConfigError, UnreachableError
from lab.spec import lab_names
from lab.state import LabState, load_state

WAYS = "start one (kubereach lab up), or name a cluster by --kubeconfig, or the controller by --url and --token"
NAMESPACE = "kubereach"
PLUGIN = "kubectl-reach"


def find_access(
    *,
    lab: str | None,
    url: str | None,
    token: str | None,
    kubeconfig: str | None,
    environ: Mapping[str, str] | None = None,
) -> Access:
    """The controller that options or environment name, that of the only running lab, or that of the current kubeconfig.

    Raises ConfigError where none or several could be meant, UnreachableError where the lab or cluster named has none,
    RefusedError where the Kubernetes API does not let the user look.
    """
    env = os.environ if environ is None else environ
    named_url = url or ("" if lab or kubeconfig else env.get("KUBEREACH_URL", ""))
    if named_url:
        origin = "--url" if url else "KUBEREACH_URL"
        return _from_url(named_url, token or env.get("KUBEREACH_TOKEN", ""), origin, env)
    if kubeconfig and not lab:
        return _from_kubeconfig(kubeconfig, token, env)
    named_lab = lab or env.get("KUBEREACH_LAB", "")
    if named_lab:
        return _from_lab(named_lab, token, "--lab" if lab else "KUBEREACH_LAB")
    current = _current_kubeconfig(env)
    if current and Path(sys.argv[0]).name == PLUGIN:
        if len(current) > 1:
            return _from_cluster(current, token, env)
        return _from_kubeconfig(str(current[0]), token, env)
    running = running_labs()
    if len(running) > 1:
        raise ConfigError(f"several labs run ({', '.join(sorted(running))}); name one by --lab NAME or KUBEREACH_LAB")
    if not running:
        if current:
            return _from_cluster(current, token, env)
        raise ConfigError(f"no lab runs on this machine and no kubeconfig and no controller is named; {WAYS}")
    return _access(*next(iter(running.items())), token)


def running_labs() -> dict[str, LabState]:
    """The labs whose supervisor is alive, by name."""
    states = {name: load_state(name) for name in lab_names()}
    return {name: state for name, state in states.items() if state is not None and state.supervisor.alive()}


def _from_url(url: str, token: str, origin: str, env: Mapping[str, str]) -> Access:
    parts = urlsplit(url)
    # The address that `lab up` prints, token and all, may be given as it is.
    token = token or parse_qs(parts.fragment).get("token", [""])[0]
    bare = urlunsplit(parts._replace(fragment="", query=""))
    return Access(bare, token, f"from {origin}", env.get("KUBEREACH_CA", ""))


def _from_lab(name: str, token: str | None, origin: str) -> Access:
    state = load_state(name)
    if state is None:
        running = ", ".join(sorted(running_labs())) or "none"
        raise ConfigError(f"{origin} names lab '{name}', which is not on this machine; labs that run: {running}")
    return _access(name, state, token)


def _from_kubeconfig(path: str, token: str | None, env: Mapping[str, str]) -> Access:
    wanted = Path(path)
    if not wanted.is_file():
        raise ConfigError(f"the kubeconfig '{path}' is not there; {WAYS}")
    for name, state in running_labs().items():
        # A lab may run kubereach as pods; then its own account names no controller, and Kubernetes is asked.
        if state.kubeconfig and state.url and Path(state.kubeconfig).resolve() == wanted.resolve():
            return _access(name, state, token)
    return _from_cluster([wanted], token, env)


def _current_kubeconfig(env: Mapping[str, str]) -> list[Path]:
    """The files that kubectl would read, of those that are there."""
    named = [Path(text) for text in env.get("KUBECONFIG", "").split(os.pathsep) if text]
    usual = [Path(env["HOME"]) / ".kube/config"] if env.get("HOME") else []
    return [path for path in named or usual if path.is_file()]


def _from_cluster(paths: list[Path], token: str | None, env: Mapping[str, str]) -> Access:
    # Loaded here: a lab, or a controller that is named, needs none of it.
    from cli import forward, kubeconfig

    namespace = env.get("KUBEREACH_NAMESPACE") or NAMESPACE
    cluster = kubeconfig.load(paths)
    kubernetes = forward.Kubernetes(cluster)
    controller = forward.find_controller(kubernetes, namespace)
    opens = token or env.get("KUBEREACH_TOKEN") or forward.person_token(kubernetes, namespace)
    return Access("http://127.0.0.1", opens, f"pod {namespace}/{controller.pod}", connect=controller.connect)


def _access(name: str, state: LabState, token: str | None) -> Access:
    if not state.supervisor.alive():
        raise UnreachableError(f"lab '{name}' does not run any more; `kubereach lab down --name {name}` takes it away")
    if not state.url and state.kubeconfig and state.phase == "up":
        # Of its own it has none, and never will: whoever brought it up so installs kubereach in it as in any cluster.
        return _from_cluster([Path(state.kubeconfig)], token, {})
    if not state.url:
        raise UnreachableError(f"lab '{name}' has no controller yet ({state.message or state.phase}); try again soon")
    found = _from_url(state.url, token or "", f"lab {name}", {})
    return Access(found.url, found.token, f"lab {name}")
