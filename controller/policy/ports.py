"""Sets of ports as one integer: bit `65536 * protocol + port`, protocols in the order TCP, UDP, SCTP.

One number per set makes union, intersection and difference single operations, whatever the set holds. Pure.
"""

from __future__ import annotations

from functools import lru_cache

from controller.policy.objects import PROTOCOLS

WIDTH = 65536
LAST = WIDTH - 1
OFFSETS = {protocol: index * WIDTH for index, protocol in enumerate(PROTOCOLS)}
Ranges = tuple[tuple[int, int], ...]


def span_bits(first: int, last: int) -> int:
    """Give the set of the codes `first` to `last`."""
    return ((1 << (last - first + 1)) - 1) << first


ALL = sum(span_bits(offset + 1, offset + LAST) for offset in OFFSETS.values())


@lru_cache(maxsize=4096)
def ranges(bits: int, protocol: str) -> Ranges:
    """Give the ports of one protocol as closed ranges in rising order."""
    rest = (bits >> OFFSETS[protocol]) & (span_bits(0, LAST))
    found = []
    base = 0
    while rest:
        gap = (rest & -rest).bit_length() - 1
        rest >>= gap
        base += gap
        # Adding one carries through the run of ones and leaves its end as the lowest zero.
        run = ((rest + 1) & ~rest).bit_length() - 1
        found.append((base, base + run - 1))
        rest >>= run
        base += run
    return tuple(found)


def ranges_text(spans: Ranges) -> str:
    """Write ranges for people: `80, 8000-8999`, or `all ports`."""
    if spans == ((1, LAST),):
        return "all ports"
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
