"""Docker, firewalld and ufw as recorded from Debian's packages (tests/recorded): each of their rules is known as theirs."""

# ruff: noqa: E501 - rules stand as one writes them
from __future__ import annotations

from pathlib import Path

import pytest

from agent.host.netfilter import read
from agent.host.netfilter.owner import Owners
from agent.host.netfilter.rules import NATIVE, NFT_COMPAT, Rule

FOLDER = Path(__file__).resolve().parents[2] / "recorded"
OWNERS = {"docker": "docker", "firewalld-nftables": "firewalld", "firewalld-iptables": "firewalld", "ufw": "ufw"}
# What `firewall-cmd --direct` was given is the administrator's own iptables rule where firewalld itself writes nftables.
DIRECT = "-s 10.74.0.0/24 -j DROP"
# An administrator's rules among theirs: recording, table, rule.
OTHERS = {
    "a-bridge-of-docker": ("docker", "filter", "-A FORWARD -i docker0 -s 10.99.0.0/16 -j DROP"),
    "towards-a-bridge": ("docker", "filter", "-A FORWARD -i eth0 -o docker0 -p tcp -m tcp --dport 25 -j REJECT --reject-with icmp-port-unreachable"),
    "a-bridge-in-raw": ("docker", "raw", "-A PREROUTING -i docker0 -j DROP"),
    "dockers-form-for-another-bridge": ("docker", "filter", "-A FORWARD -i virbr7 ! -o virbr7 -j ACCEPT"),
    "dockers-form-for-an-unpublished-port": ("docker", "nat", "-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 9 -j MASQUERADE"),
    "left-to-the-user-by-docker": ("docker", "filter", "-A DOCKER-USER -i eth0 -j DROP"),
    "beside-firewalld": ("firewalld-iptables", "filter", "-A INPUT -s 10.99.0.0/16 -j DROP"),
    "like-firewalld-but-narrower": ("firewalld-iptables", "filter", "-A FORWARD -i eth1 -m conntrack --ctstate INVALID -j DROP"),
    "firewalld-form-without-firewalld": ("ufw", "filter", "-A IN_lan -j DROP"),
    "firewalld-rule-without-firewalld": ("docker", "filter", "-A INPUT -m conntrack --ctstate INVALID -j DROP"),
    "beside-ufw": ("ufw", "filter", "-A INPUT -p tcp -m tcp --dport 25 -j DROP"),
}  # fmt: skip


def printed(name: str) -> dict[str, bytes]:
    """What the programs printed."""
    suffixes = {"nft": "nft.json", "ip": "iptables", "ip6": "ip6tables", "ipset": "ipset"}
    return {program: (FOLDER / f"{name}.{suffix}").read_bytes() for program, suffix in suffixes.items()}


def is_direct(rule: Rule) -> bool:
    """Whether the rule was given to firewalld as it stands."""
    return rule.chain == "FORWARD" and rule.text == DIRECT


@pytest.mark.parametrize("name", OWNERS)
def test_a_recording_is_read_whole(name: str) -> None:
    """Every rule that the programs printed is there, native ones and those of iptables, and nothing else."""
    given = printed(name)
    reading = read.assemble(given, {})
    assert reading.errors == {}
    lines = [line.partition("-A ")[2] for program in ("ip", "ip6") for line in given[program].decode().splitlines()]
    rules = reading.ruleset.rules()
    assert sorted(f"{r.chain} {r.text}" for r in rules if r.backend == NFT_COMPAT) == sorted(filter(None, lines))
    own = {(table.family, table.name) for table in reading.ruleset.tables if table.backend == NATIVE}
    native, table = 0, ("", "")
    for line in (FOLDER / f"{name}.nft").read_text().splitlines():
        if line.startswith("table "):
            table = (line.split()[1], line.split()[2])
        is_rule = (
            line.startswith("\t\t") and line[2] not in "\t}" and not line.startswith(("\t\ttype ", "\t\telements "))
        )
        native += table in own and is_rule
    assert native == sum(rule.backend == NATIVE for rule in rules)
    assert len(rules) > 80


@pytest.mark.parametrize("name", OWNERS)
def test_every_rule_has_its_owner(name: str) -> None:
    """No rule of theirs is taken for the administrator's, nor for anybody else's."""
    ruleset = read.assemble(printed(name), {}).ruleset
    owners = Owners(ruleset.tables)
    wrong = [(owners.owner(r), r) for r in ruleset.rules() if owners.owner(r) != OWNERS[name] and not is_direct(r)]
    assert wrong == []
    assert {owners.owner(rule) for rule in ruleset.rules() if is_direct(rule)} <= {"administrator"}


@pytest.mark.parametrize("other", OTHERS)
def test_an_administrators_rule_stays_his(other: str) -> None:
    """A rule that is about theirs, or looks like theirs, is not theirs."""
    name, table, line = OTHERS[other]
    given = printed(name)
    save = given["ip"].decode()
    if f"*{table}\n" in save:
        before, _, after = save.partition(f"*{table}\n")
        end = after.index("COMMIT")
        save = f"{before}*{table}\n{after[:end]}{line}\n{after[end:]}"
    else:
        save += f"*{table}\n:PREROUTING ACCEPT [0:0]\n{line}\nCOMMIT\n"
    ruleset = read.assemble({**given, "ip": save.encode()}, {}).ruleset
    owners = Owners(ruleset.tables)
    chain, _, text = line.removeprefix("-A ").partition(" ")
    found = [rule for rule in ruleset.rules() if (rule.table, rule.chain, rule.text) == (table, chain, text)]
    assert [owners.owner(rule) for rule in found] == ["administrator"]
