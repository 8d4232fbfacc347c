"""Where the controller is: what the user names first, then the environment, then the only lab that runs.

It reads the labs' own account (`lab.state`) and asks nothing over the network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

from cli.client import Access, ConfigError, UnreachableError
from lab.spec import lab_names
from lab.state import LabState, load_state

WAYS = "start one (kubereach lab up), or name the controller by --url and --token"


def find_access(
    *,
    lab: str | None,
    url: str | None,
    token: str | None,
    kubeconfig: str | None,
    environ: Mapping[str, str] | None = None,
) -> Access:
    """The controller that options or environment name, else that of the only running lab.

    Raises ConfigError where none or several could be meant, UnreachableError where the lab named does not run.
    """
    env = os.environ if environ is None else environ
    named_url = url or ("" if lab or kubeconfig else env.get("KUBEREACH_URL", ""))
    if named_url:
        origin = "--url" if url else "KUBEREACH_URL"
        return _from_url(named_url, token or env.get("KUBEREACH_TOKEN", ""), origin, env)
    if kubeconfig and not lab:
        return _from_kubeconfig(kubeconfig, token)
    named_lab = lab or env.get("KUBEREACH_LAB", "")
    if named_lab:
        return _from_lab(named_lab, token, "--lab" if lab else "KUBEREACH_LAB")
    running = running_labs()
    if len(running) > 1:
        raise ConfigError(f"several labs run ({', '.join(sorted(running))}); name one by --lab NAME or KUBEREACH_LAB")
    if not running:
        raise ConfigError(f"no lab runs on this machine and no controller is named; {WAYS}")
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


def _from_kubeconfig(path: str, token: str | None) -> Access:
    wanted = Path(path)
    if not wanted.is_file():
        raise ConfigError(f"the kubeconfig '{path}' is not there; {WAYS}")
    for name, state in running_labs().items():
        if state.kubeconfig and Path(state.kubeconfig).resolve() == wanted.resolve():
            return _access(name, state, token)
    raise ConfigError(f"the kubeconfig '{path}' is that of no running lab; {WAYS}")


def _access(name: str, state: LabState, token: str | None) -> Access:
    if not state.supervisor.alive():
        raise UnreachableError(f"lab '{name}' does not run any more; `kubereach lab down --name {name}` takes it away")
    if not state.url:
        raise UnreachableError(f"lab '{name}' has no controller yet ({state.message or state.phase}); try again soon")
    found = _from_url(state.url, token or "", f"lab {name}", {})
    return Access(found.url, found.token, f"lab {name}")
