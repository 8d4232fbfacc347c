"""Whose resolv.conf holds in a namespace, and how it is read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import resolvconf
from agent.netns import OWN
from lab import netns
from model.facts import FactsOrder, Resolver
from model.probes import Vantage
from tests.agent.host.kernel import facts

FILE = "# comment\nnameserver 10.96.0.10\nsearch x\nsearch a.svc b\noptions ndots:5 timeout:1\noptions edns0 ; more\n"
READ = Resolver(nameservers=("10.96.0.10",), search=("a.svc", "b"), options=("ndots:5", "timeout:1", "edns0"))
MOUNTED = 'mount --bind "$0" /etc/resolv.conf && echo there && exec sleep 60'


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace, by name."""
    name = f"krh-{os.getpid()}-r"
    netns.run_sync(None, ["ip", "netns", "add", name])
    try:
        yield name
    finally:
        netns.run_sync(None, ["ip", "netns", "del", name])


@contextmanager
def lives(namespace: str, *argv: str) -> Iterator[None]:
    """A process in the namespace, once it has said that it is there."""
    with subprocess.Popen(["nsenter", f"--net=/run/netns/{namespace}", *argv], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stdout.readline() == b"there\n"
            yield
        finally:
            process.kill()


def both(namespace: str) -> tuple[Resolver, Resolver | None, str]:
    """What who asks names there goes by; the fact, and the error in its stead."""
    fact = facts(namespace, FactsOrder(vantage=Vantage(), subjects=("resolver",)))
    return resolvconf.or_empty(f"/run/netns/{namespace}"), fact.resolver, fact.errors.get("resolver", "")


def test_of_the_oldest_process(namespace: str, tmp_path: Path) -> None:
    """A younger one with another file does not count."""
    old, young = tmp_path / "old", tmp_path / "young"
    old.write_text(FILE)
    young.write_text("nameserver 192.0.2.1\n")
    with (
        lives(namespace, "unshare", "-m", "sh", "-c", MOUNTED, str(old)),
        lives(namespace, "unshare", "-m", "sh", "-c", MOUNTED, str(young)),
    ):
        assert both(namespace) == (READ, READ, "")


def test_visitors_of_the_agent_do_not_count(namespace: str, tmp_path: Path) -> None:
    """What shares the agent's mount namespace has the agent's file, though it may be older than the pod's process."""
    file = tmp_path / "resolv.conf"
    file.write_text(FILE)
    with lives(namespace, "sh", "-c", "echo there; exec sleep 60"):
        names, fact, error = both(namespace)
        assert (names, fact) == (Resolver(), None) and "no process" in error
        with lives(namespace, "unshare", "-m", "sh", "-c", MOUNTED, str(file)):
            assert both(namespace) == (READ, READ, "")


def test_of_the_reader_itself(namespace: str, tmp_path: Path) -> None:
    """Of its own namespace it takes what the oldest process sees, which may be itself."""
    file = tmp_path / "resolv.conf"
    file.write_text(FILE)
    read = f"from agent import resolvconf; print(resolvconf.read({OWN!r}))"
    script = f'mount --bind "$0" /etc/resolv.conf && exec {sys.executable} -c "$1"'
    said = netns.run_sync(f"/run/netns/{namespace}", ["unshare", "-m", "sh", "-c", script, str(file), read]).stdout
    assert said.strip() == str(READ)
