"""What changed in a node's network, and when: noted by the agent as the kernel tells it, kept by the controller."""

from __future__ import annotations

import msgspec


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change in the host's namespace, at the agent's clock.

    `subject`: link, address, route, rule, neighbour, fdb, sysctl or packet filter. `what`: new, gone or changed.
    `name` is what tools call it ("10.244.2.0/24", "eth0", "net.ipv4.conf.all.forwarding"), `says` the rest of it.
    """

    at_ms: int
    subject: str
    name: str
    what: str
    says: str = ""

    def __str__(self) -> str:
        text = f"{self.subject} {self.name} {self.says}".strip()
        return f"{text} {'went' if self.what == 'gone' else 'came' if self.what == 'new' else 'changed'}"
