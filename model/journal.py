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
        """In words: "route 10.244.2.0/24 via 10.77.1.12 dev eth0 went", "link eth0 changed: down"."""
        if self.what == "changed":
            colon = "" if not self.says or self.says.startswith(("to ", "by ")) else ":"
            return f"{self.subject} {self.name} changed{colon} {self.says}".strip()
        return f"{self.subject} {self.name} {self.says}".strip() + (" went" if self.what == "gone" else " came")
