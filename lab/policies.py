"""How a fault spoils a NetworkPolicy that is there: one place of it gets another value, and gets its own back.

The faults say which place, what stands there afterwards, and what to expect of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lab.fault import Bench, Broken, Expected, Patch

POLICIES = "networking/networkpolicies"


@dataclass(frozen=True, slots=True)
class Spoil:
    """One way to spoil a policy.

    `default` is the policy where none is named, `path` the place (a JSON pointer), `wrong` what it becomes of what it
    was. `says` puts it in words, with `{policy}`, `{was}` and `{wrong}`. `probe` fails by it; `opens`: an incident.
    """

    code: str
    default: str
    path: str
    wrong: Callable[[Any], Any]
    says: str
    probe: tuple[str, str]
    opens: bool = True


async def spoil(bench: Bench, on: str, way: Spoil) -> Broken:
    """Change the policy."""
    policy = await bench.object(POLICIES, on, "networkpolicy/", way.default)
    namespace, name = policy["metadata"]["namespace"], policy["metadata"]["name"]
    was = _at(policy, way.path)
    wrong = way.wrong(was)
    change = [{"op": "replace", "path": way.path, "value": wrong}]
    await bench.api.patch(POLICIES, name, change, namespace, patch_type="json")
    return Broken(
        code=way.code,
        on=f"networkpolicy/{namespace}/{name}",
        says=way.says.format(policy=f"NetworkPolicy {namespace}/{name}", was=was, wrong=wrong),
        expected=(Expected(code=way.code, kind="NetworkPolicy", namespace=namespace, name=name),),
        probe=way.probe,
        undo=(Patch(POLICIES, namespace, name, [{"op": "replace", "path": way.path, "value": was}]),),
        exit_code=0,
        opens=way.opens,
    )


def _at(item: Mapping[str, Any], pointer: str) -> Any:
    found: Any = item
    for part in pointer.strip("/").split("/"):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found
