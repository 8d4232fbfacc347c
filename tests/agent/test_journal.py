"""The journal: what the kernel tells of a namespace's network, in words, and none of the noise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from model.journal import Change
from tests.agent.host.kernel import run

# What prints each change as it is noted, in the namespace that it was started in.
WATCH = """
import asyncio, sys, msgspec
from agent.journal import Journal
async def main():
    journal = Journal()
    print("ready", flush=True)
    while True:
        changes = journal.changes()
        for change in changes:
            print(msgspec.json.encode(change).decode(), flush=True)
        journal.delivered(changes)
        await asyncio.sleep(0.01)
asyncio.run(main())
"""
SETUP = """
ip link set lo up; ip link add va type veth peer name vb; ip link set va up; ip link set vb up
ip addr add 10.1.0.1/24 dev va; sysctl -qw net.ipv4.ip_forward=1
ip route add 10.244.1.0/24 via 10.1.0.9
ip link add vx type vxlan id 3 dstport 4789 dev vb nolearning
bridge fdb add 02:00:00:00:00:01 dev vx dst 10.1.0.8
"""
MARK = "9999"
CASES = {
    "route gone": ("ip route del 10.244.1.0/24", "route 10.244.1.0/24 via 10.1.0.9 dev va went"),
    "blackhole": ("ip route add blackhole 10.9.0.0/16", "route 10.9.0.0/16 blackhole came"),
    "table": ("ip route add 10.8.0.0/16 via 10.1.0.9 table 7", "route 10.8.0.0/16 via 10.1.0.9 dev va table 7 came"),
    "ipv6 route": ("ip -6 route add unreachable fd00::/8", "route fd00::/8 unreachable came"),
    "policy rule that ends": ("ip rule add to 10.3.0.0/16 prohibit prio 98", "rule 98 to 10.3.0.0/16 prohibit came"),
    "policy rule": ("ip rule add from 10.2.0.0/16 table 7 prio 99", "rule 99 from 10.2.0.0/16 table 7 came"),
    "address": ("ip addr add 10.3.0.1/32 dev vb", "address 10.3.0.1/32 dev vb came"),
    "mtu": ("ip link set vb mtu 1400", "link vb changed: mtu 1500 to 1400"),
    "down": ("ip link set vb down", "link vb changed: down"),
    "device gone": ("ip link del vx", "link vx went"),
    "tunnel's end": (
        "bridge fdb del 02:00:00:00:00:01 dev vx dst 10.1.0.8", "fdb 02:00:00:00:00:01 dst 10.1.0.8 dev vx went"
    ),
    "permanent neighbour": (
        "ip neigh add 10.1.0.7 lladdr 02:00:00:00:00:02 dev va nud permanent",
        "neighbour 10.1.0.7 lladdr 02:00:00:00:00:02 dev va came",
    ),
    "forwarding": ("sysctl -qw net.ipv4.ip_forward=0", "sysctl net.ipv4.conf.all.forwarding changed to 0"),
    "reverse path": ("sysctl -qw net.ipv4.conf.va.rp_filter=2", "sysctl net.ipv4.conf.va.rp_filter changed to 2"),
}  # fmt: skip


class Watched:
    """A namespace, and the process that notes what changes there."""

    def __init__(self) -> None:
        self.name = f"krh-{os.getpid()}-j"
        run("", f"ip netns add {self.name}")
        try:
            run(self.name, SETUP)
            self._process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.name}", sys.executable, "-c", WATCH],
                stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2], text=True,
            )  # fmt: skip
            assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"
        except BaseException:
            self._remove()
            raise

    def upto(self, command: str) -> list[Change]:
        """Runs a command, and then a mark; all that was noted until the mark."""
        run(self.name, f"{command}; ip rule add table 9 prio {MARK}; ip rule del prio {MARK}")
        assert self._process.stdout is not None
        found: list[Change] = []
        while not found or (found[-1].name, found[-1].what) != (MARK, "gone"):
            found.append(msgspec.json.decode(self._process.stdout.readline(), type=Change))
        return [one for one in found if one.name != MARK]

    def close(self) -> None:
        """Ends the process and takes the namespace away."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._remove()

    def _remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, timeout=10)


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A namespace of its own, watched."""
    made = Watched()
    yield made
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_a_change_in_words(watched: Watched, name: str) -> None:
    """What was changed by a tool stands there in the tool's words, once."""
    command, says = CASES[name]
    assert [str(one) for one in watched.upto(command)].count(says) == 1


def test_the_packet_filter_names_its_program(watched: Watched) -> None:
    """A change of nftables' rules is told with the program that made it, however many rules it was."""
    rules = "; ".join(f"add rule ip t c ip daddr 10.7.0.{at} drop" for at in range(1, 50))
    found = watched.upto(f"nft 'add table ip t; add chain ip t c; {rules}'")
    assert [(one.subject, one.says.partition(" (")[0]) for one in found] == [("packet filter", "by nft")]


def test_noise_is_not_told(watched: Watched) -> None:
    """Neighbours that come and go by themselves, counters, and settings that a new device has, are left out."""
    by_hand = "ip neigh add 10.1.0.6 lladdr 02:00:00:00:00:06 dev va nud stale"
    assert watched.upto(f"fping -q -c1 -t50 10.1.0.99 || true; {by_hand}") == []
    devices = {(one.subject, one.what) for one in watched.upto("ip link add vc type veth peer name vd")}
    assert devices == {("link", "new")}


def test_more_than_can_be_kept_is_counted() -> None:
    """A controller that cannot be reached for long does not make the agent grow: the oldest go, and that is told."""
    script = """
import asyncio, subprocess
from agent.journal import MAX_CHANGES, Journal
async def main():
    journal = Journal()
    lines = "".join(f"route add blackhole 10.{at // 250}.{at % 250}.0/24\\n" for at in range(MAX_CHANGES + 50))
    subprocess.run(["ip", "-batch", "-"], input=lines.encode(), check=True)
    while journal.lost < 50:
        await asyncio.sleep(0.01)
    print(journal.lost, journal.changes()[0].name)
asyncio.run(main())
"""
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", script], cwd=Path(__file__).resolve().parents[2], timeout=30,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "50 10.0.50.0/24\n"
