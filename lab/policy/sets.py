"""Sets of addresses (ipset) as data, and the `ipset restore` text that brings a node to them.

Pure. Sets are filled before the rules that name them are written, and destroyed after the rules are gone.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec

SPARE = "kubereach-spare"


class AddressSet(msgspec.Struct, frozen=True):
    """One set: type as ipset calls it, options of its creation, and its entries."""

    name: str
    kind: str
    family: int
    options: str
    entries: frozenset[str]


Sets = Mapping[str, AddressSet]


def before_rules(wanted: Sets, applied: Sets | None, present: Iterable[str]) -> str:
    """Return what makes and fills all wanted sets. `present` are the names of sets that the kernel has.

    A set of unknown contents is replaced in one step. Nothing is destroyed here but spares.
    """
    known = applied or {}
    there = set(present)
    lines = [f"destroy {name}" for name in sorted(there) if name.startswith(SPARE)]
    for name, value in wanted.items():
        old = known.get(name)
        if old is not None:
            lines += [f"del {name} {_key(entry)} -exist" for entry in sorted(old.entries - value.entries)]
            lines += [f"add {name} {entry} -exist" for entry in sorted(value.entries - old.entries)]
        elif name in there:
            spare = f"{SPARE}{value.family}"
            lines.append(_create(spare, value))
            lines += [f"add {spare} {entry}" for entry in sorted(value.entries)]
            lines += [f"swap {spare} {name}", f"destroy {spare}"]
        else:
            lines.append(_create(name, value))
            lines += [f"add {name} {entry}" for entry in sorted(value.entries)]
    return "".join(f"{line}\n" for line in lines)


def after_rules(wanted: Sets, applied: Sets | None, present: Iterable[str], owned: re.Pattern[str]) -> str:
    """Return what destroys sets that are ours and no longer wanted."""
    ours = set(applied) if applied is not None else {name for name in present if owned.fullmatch(name)}
    return "".join(f"destroy {name}\n" for name in sorted(ours - set(wanted)))


def _key(entry: str) -> str:
    return entry.removesuffix(" nomatch")


def _create(name: str, value: AddressSet) -> str:
    family = "inet6" if value.family == 6 else "inet"
    return f"create {name} {value.kind} family {family} {value.options}".rstrip()
