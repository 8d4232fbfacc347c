"""Random rule sets, and packets to put through them, for the walk to be held against the kernel."""

# ruff: noqa: E501 - rules stand as one writes them
from __future__ import annotations

import random

from model.facts import Packet
from tests.agent.host.kernel import CLIENT, CLIENT6, FENCE_PORT, SERVER, SERVER6


def syn(
    port: int, *, source: str = CLIENT, destination: str = SERVER, protocol: str = "tcp", sport: int = 40001
) -> Packet:
    """A packet of the client's."""
    return Packet(
        family=6 if ":" in source else 4, source=source, destination=destination, protocol=protocol,
        source_port=sport if protocol in {"tcp", "udp"} else 0, destination_port=port, incoming="in0",
        icmp_type=128 if protocol == "icmpv6" else 8,
    )  # fmt: skip


def random_xt(dice: random.Random, family: int) -> str:
    """A random rule set for iptables-restore: user chains, marks, sets of ports, all verdicts."""
    nets = ("10.50.1.2/32", "10.50.1.0/24", "10.50.2.2/31", "10.50.0.0/16", "10.99.0.0/16") if family == 4 else (
        "fd50:1::2/128", "fd50:1::/64", "fd50:2::2/127", "fd50::/16", "fd99::/16")  # fmt: skip
    chains = ["ONE", "TWO", "THREE"]

    def matches() -> str:
        words = []
        for choice in dice.sample(range(8), dice.randint(0, 3)):
            bang = dice.choice(["", "", "! "])
            words.append([
                f"{bang}-s {dice.choice(nets)}", f"{bang}-d {dice.choice(nets)}", f"-i {dice.choice(['in0', 'in+', 'out0'])}",
                f"-m mark {bang}--mark {dice.choice(['0x1/0x1', '0x2/0x3', '0x0/0x4'])}",
                f"-m conntrack {bang}--ctstate {dice.choice(['NEW', 'ESTABLISHED,RELATED', 'INVALID,NEW'])}",
                f"-p {dice.choice(['tcp', 'udp'])} -m multiport {bang}--dports {dice.randint(1, 5)},{dice.randint(6, 8)}:10",
                f"-m addrtype {bang}--dst-type {dice.choice(['LOCAL', 'UNICAST'])}",
                f"-m comment --comment \"{dice.choice(['a b', '-j DROP', 'x'])}\"",
            ][choice])  # fmt: skip
        return " ".join(words)

    def target(after: int) -> str:
        kinds = ["-j ACCEPT", "-j DROP", "-j REJECT", "-j RETURN", "-j MARK --set-xmark 0x1/0x1", "-j MARK --set-xmark 0x3/0x2",
                 "-j MARK --and-mark 0xfffffffe", "-j MARK --or-mark 0x4", ""]  # fmt: skip
        kinds += [f"{dice.choice(['-j', '-j', '-g'])} {chain}" for chain in chains[after:]] * 2
        return dice.choice(kinds)

    lines = ["*mangle", ":PREROUTING ACCEPT", f"-A PREROUTING -p udp --dport {FENCE_PORT} -j ACCEPT"]
    lines += [f"-A PREROUTING {matches()} -j MARK --set-xmark {dice.randint(0, 7):#x}/0x7" for _ in range(3)]
    lines += ["COMMIT", "*filter", f":FORWARD {dice.choice(['ACCEPT', 'DROP'])}", *(f":{chain} -" for chain in chains)]
    lines += [f"-A FORWARD -p udp --dport {FENCE_PORT} -j ACCEPT", "-A FORWARD -i out0 -j ACCEPT"]
    for at, chain in enumerate(["FORWARD", *chains]):
        lines += [f"-A {chain} {matches()} {target(at)}" for _ in range(dice.randint(2, 6))]
    return "\n".join([*lines, "COMMIT", ""])


def random_nft(dice: random.Random) -> str:
    """A random native rule set."""
    fields = [
        lambda: (
            f"ip saddr {dice.choice(['', '!= '])}{dice.choice(['10.50.1.2', '10.50.1.0/24', '{ 10.50.1.1-10.50.1.3, 10.9.0.0/16 }', '@a'])}"
        ),
        lambda: f"ip6 daddr {dice.choice(['', '!= '])}{dice.choice(['fd50:2::2', 'fd50:2::/64', '{ fd50::/16 }'])}",
        lambda: f"tcp dport {dice.choice(['', '!= '])}{dice.choice(['1-5', '{ 2, 4, 6-9 }', '3', '@p'])}",
        lambda: f"meta mark & {dice.randint(1, 3)} {dice.choice(['==', '!='])} {dice.randint(0, 1)}",
        lambda: f"th dport {dice.choice(['<', '>='])} {dice.randint(1, 10)}",
        lambda: dice.choice(["ct state new", "ct state established,related", "ct state != invalid"]),
        lambda: dice.choice(
            ["meta l4proto tcp", "meta nfproto ipv6", "meta l4proto { udp, icmp, ipv6-icmp }", 'iifname "in*"']
        ),
        lambda: f"ip daddr . th dport {dice.choice(['', '!= '])}@c",
    ]
    verdicts = ["accept", "drop", "reject", "return", "meta mark set meta mark | 1", "meta mark set meta mark & 0xfffffffe",
                "meta mark set 2", "counter", "continue"]  # fmt: skip

    def rule(jumps: list[str]) -> str:
        chosen = [field() for field in dice.sample(fields, dice.randint(0, 2))]
        if len({one.split()[0] for one in chosen} & {"ip", "ip6"}) == 2:
            chosen = chosen[:1]  # nft refuses a rule for both families
        words = " ".join(chosen)
        maps = [f"th dport vmap {{ 1-3 : {dice.choice(['drop', 'accept', *jumps])}, 5 : continue, 7 : return }}",
                "meta l4proto vmap @v" if jumps else "accept"]  # fmt: skip
        return f"{words} {dice.choice([*verdicts, *jumps, *jumps, *maps])}"

    chains = {"two": [], "one": ["jump two", "goto two"], "forward": ["jump one", "goto one", "jump two"]}
    text = ["table inet krh { set a { type ipv4_addr; flags interval; elements = { 10.50.0.0/16 } }",
            " set p { type inet_service; elements = { 1, 3, 5, 7 } }",
            " set c { type ipv4_addr . inet_service; flags interval; elements = { 10.50.2.2 . 1-6, 10.50.2.3 . 4 } }",
            " map v { type inet_proto : verdict; elements = { tcp : jump two, udp : continue } }"]  # fmt: skip
    for name, jumps in chains.items():
        text.append(f" chain {name} {{")
        if name == "forward":
            text.append(f"type filter hook forward priority 0; policy {dice.choice(['accept', 'drop'])};")
            text.append(f'udp dport {FENCE_PORT} accept\niifname "out0" accept\nicmpv6 type 133-137 accept')
        text += [rule(jumps) for _ in range(dice.randint(2, 6))]
        text.append("}")
    return "\n".join([*text, "}"]) + "\n"


def random_packets(dice: random.Random, families: tuple[int, ...]) -> list[Packet]:
    """Packets of every protocol to low ports."""
    found = []
    for _ in range(24):
        family = dice.choice(families)
        source, destination = (CLIENT, dice.choice([SERVER, "10.50.2.3"])) if family == 4 else (CLIENT6, SERVER6)
        protocol = dice.choice(["tcp", "tcp", "udp", "icmp" if family == 4 else "icmpv6"])
        port = 0 if protocol.startswith("icmp") else dice.randint(1, 10)
        found.append(
            syn(port, source=source, destination=destination, protocol=protocol, sport=dice.randint(10000, 60000))
        )
    return found
