"""Keeps the policies of one node in one family: sets, then rules, then what became needless.

Must not read the API: it is given what is to be enforced.
"""

import re

import msgspec

from lab.policy.kube_router import Enforcement
from lab.policy.sets import SPARE, AddressSet, after_rules, before_rules
from lab.ruler import ChainKeeper, Children


class Shape(msgspec.Struct, frozen=True):
    """By which names an enforcement's chains and sets are known as its own."""

    chains: re.Pattern[str]
    sets: re.Pattern[str]


class PolicyKeeper:
    """One node's namespace, one family (4 or 6)."""

    def __init__(self, children: Children, name: str, family: int, shape: Shape) -> None:
        """`name` is the namespace's; `shape` says which chains and sets are ours."""
        self._children = children
        self._name = name
        self._family = family
        self._owned_sets = shape.sets
        # Jumps of a policy controller stand first of all: nothing may be before them.
        self._chains = ChainKeeper(children, name, family, shape.chains, re.compile(r"(?!)"))
        self._sets: dict[str, AddressSet] | None = None

    async def apply(self, wanted: Enforcement) -> bool:
        """Write what changed and return whether anything did; NetnsError where the kernel refuses."""
        applied, self._sets = self._sets, None
        # Sets that are not known from our own last write are looked up and replaced whole.
        present = await self._present() if applied is None else []
        first = before_rules(wanted.sets, applied, present)
        if first:
            await self._ipset(first)
        changed = await self._chains.apply(wanted.rules)
        last = after_rules(wanted.sets, applied, present, self._owned_sets)
        if last:
            await self._ipset(last)
        self._sets = wanted.sets
        return bool(first or changed or last)

    async def _present(self) -> list[str]:
        listing = await self._children.run(self._name, ["ipset", "list", "-name"])
        first = ("cali6", "inet6:", f"{SPARE}6") if self._family == 6 else ("cali4", "KUBE-", f"{SPARE}4")
        return [name for name in listing.split() if name.startswith(first)]

    async def _ipset(self, text: str) -> None:
        await self._children.run(self._name, ["ipset", "restore"], text)
