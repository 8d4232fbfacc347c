"""Counters of the namespace's protocols (snmp, snmp6, netstat) and of the processors' queues (softnet_stat)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from model.tables import Counters, Softnet

ROOT: Final = Path("/proc/thread-self/net")
SOFTNET_CPU: Final = 12


def read(root: Path = ROOT) -> Counters:
    """All that are not 0. A file that this kernel lacks (snmp6 without IPv6) adds nothing; without snmp: OSError."""
    found: dict[str, int] = {}
    found |= _pairs((root / "snmp").read_text())
    for name, parse in (("netstat", _pairs), ("snmp6", _lines)):
        try:
            found |= parse((root / name).read_text())
        except FileNotFoundError:
            continue
    return Counters(protocols={name: value for name, value in found.items() if value}, softnet=_softnet(root))


def _pairs(text: str) -> dict[str, int]:
    """Lines in pairs, names above values, both behind the protocol's name and a colon."""
    found: dict[str, int] = {}
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        protocol, _, first = names.partition(":")
        found |= {
            f"{protocol}.{name}": int(value)
            for name, value in zip(first.split(), values.partition(":")[2].split(), strict=False)
        }
    return found


def _lines(text: str) -> dict[str, int]:
    return {words[0]: int(words[1]) for words in map(str.split, text.splitlines()) if len(words) == 2}


def _softnet(root: Path) -> tuple[Softnet, ...]:
    try:
        lines = (root / "softnet_stat").read_text().splitlines()
    except FileNotFoundError:
        return ()
    found = []
    for at, line in enumerate(lines):
        words = [int(word, 16) for word in line.split()]
        # Before Linux 5.10 the line did not name its processor.
        cpu = words[SOFTNET_CPU] if len(words) > SOFTNET_CPU else at
        found.append(Softnet(cpu=cpu, processed=words[0], dropped=words[1], time_squeeze=words[2]))
    return tuple(found)
