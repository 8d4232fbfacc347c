"""Rules that take a SYN to port 80 of the server, in every backend and place, and what is to be named for each."""

# ruff: noqa: E501, ISC004 - rules stand as one writes them
from __future__ import annotations

from model.facts import Packet
from tests.agent.host.kernel import CLIENT, CLIENT6, SERVER, SERVER6, Router, run

ENDS = {4: (CLIENT, SERVER), 6: (CLIENT6, SERVER6)}
NATIVE = "type filter hook forward priority 0;"
# What takes a SYN to port 80: commands, and verdict, hook, backend, chain and position of what is to be named.
# IPT stands for one of the four programs of iptables.
TAKERS = {
    "native": (f"nft 'table inet krh {{ chain f {{ {NATIVE} tcp dport 81 accept; tcp dport 80 counter drop; }} }}'",
               ("drop", "forward", "nft", "f", 2)),
    "native-reject": (f"nft 'table inet krh {{ chain f {{ {NATIVE} tcp dport 80 counter reject with tcp reset; }} }}'",
                      ("reject", "forward", "nft", "f", 1)),
    "native-jump": ("nft 'table inet krh { chain d { ct state new counter; counter drop; } "
                    f"chain f {{ {NATIVE} tcp dport 80 jump d; }} }}'", ("drop", "forward", "nft", "d", 2)),
    "native-map": ("nft 'table inet krh { map m { type inet_service : verdict; elements = { 80 : drop }; } "
                   f"chain f {{ {NATIVE} ip6 hoplimit 0 drop; tcp dport 80 counter tcp dport vmap @m; }} }}'", ("drop", "forward", "nft", "f", 2)),
    "native-map-jump": ("nft 'table inet krh { chain d { counter drop; } "
                        "map m { type inet_service : verdict; elements = { 80 : goto d }; } "
                        f"chain f {{ {NATIVE} tcp dport vmap @m; }} }}'", ("drop", "forward", "nft", "d", 1)),
    "native-policy": (f"nft 'table inet krh {{ chain f {{ {NATIVE} policy drop; meta l4proto != tcp accept; }} }}'",
                      ("drop", "forward", "nft", "f", 0)),
    "native-raw": ("nft 'table inet krh { chain p { type filter hook prerouting priority -400; tcp dport 80 counter drop; } }'",
                   ("drop", "prerouting", "nft", "p", 1)),
    "native-late": ("nft 'table inet krh { chain p { type filter hook postrouting priority 500; tcp dport 80 counter drop; } }'",
                    ("drop", "postrouting", "nft", "p", 1)),
    "nft": ("IPT-nft -A FORWARD -p tcp --dport 81 -j DROP; IPT-nft -A FORWARD -p tcp --dport 80 -m comment "
            "--comment 'no way' -j DROP", ("drop", "forward", "nft_compat", "FORWARD", 2)),
    "nft-reject": ("IPT-nft -A FORWARD -p tcp --dport 80 -j REJECT", ("reject", "forward", "nft_compat", "FORWARD", 1)),
    "nft-chain": ("IPT-nft -N D; IPT-nft -A D -m mark ! --mark 7; IPT-nft -A D -j DROP; IPT-nft -A FORWARD -p tcp "
                  "--dport 80 -g D", ("drop", "forward", "nft_compat", "D", 2)),
    "nft-policy": ("IPT-nft -P FORWARD DROP; IPT-nft -A FORWARD ! -p tcp -j ACCEPT",
                   ("drop", "forward", "nft_compat", "FORWARD", 0)),
    "legacy": ("IPT-legacy -A FORWARD -p tcp --dport 81 -j DROP; IPT-legacy -A FORWARD -p tcp --dport 80 -m comment "
               "--comment 'no way' -j DROP", ("drop", "forward", "legacy", "FORWARD", 2)),
    "legacy-reject": ("IPT-legacy -A FORWARD -p tcp --dport 80 -j REJECT",
                      ("reject", "forward", "legacy", "FORWARD", 1)),
    "legacy-chain": ("IPT-legacy -N D; IPT-legacy -A D -m mark ! --mark 7; IPT-legacy -A D -j DROP; "
                     "IPT-legacy -A FORWARD -p tcp --dport 80 -g D", ("drop", "forward", "legacy", "D", 2)),
    "legacy-policy": ("IPT-legacy -P FORWARD DROP; IPT-legacy -A FORWARD ! -p tcp -j ACCEPT",
                      ("drop", "forward", "legacy", "FORWARD", 0)),
    "legacy-raw": ("IPT-legacy -t raw -A PREROUTING -p tcp --dport 80 -j DROP",
                   ("drop", "prerouting", "legacy", "PREROUTING", 1)),
    "legacy-late": ("IPT-legacy -t mangle -A POSTROUTING -p tcp --dport 80 -j DROP",
                    ("drop", "postrouting", "legacy", "POSTROUTING", 1)),
}  # fmt: skip


def take(router: Router, taker: str, family: int) -> tuple[str, str, str, str, int]:
    """Puts the taker in place; verdict, hook, backend, chain and position that are to be named."""
    commands, expected = TAKERS[taker]
    # A block of nft ends with a line.
    commands = commands.replace("} ", "}\n").replace("IPT", "iptables" if family == 4 else "ip6tables")
    run(router.router, commands)
    return expected


def syn(family: int, port: int = 80, source_port: int = 40001) -> Packet:
    """A SYN from client to server."""
    source, destination = ENDS[family]
    return Packet(
        family=family, source=source, destination=destination, protocol="tcp",
        source_port=source_port, destination_port=port,
    )  # fmt: skip


def clear(router: Router) -> None:
    """Empties all tables, and forgets all connections, since NAT decides once for each."""
    restore = "\n".join(f"*{table}\n{_chains(table)}COMMIT" for table in ("filter", "nat", "mangle", "raw"))
    for program in ("iptables", "ip6tables"):
        run(router.router, f"{program}-legacy-restore <<< '{restore}'")
    run(router.router, "nft flush ruleset; conntrack -F 2>/dev/null")


def _chains(table: str) -> str:
    names = {"filter": "INPUT FORWARD OUTPUT", "raw": "PREROUTING OUTPUT"}.get(table, "PREROUTING OUTPUT POSTROUTING")
    return "".join(f":{name} ACCEPT\n" for name in names.split())
