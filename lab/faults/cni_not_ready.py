"""Takes a node's network configuration away, as where the network plugin never came up."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault, FaultError


async def make(bench: Bench, on: str) -> Broken:
    """Put the files of the node's CNI folder aside; pods that run keep their network, others get none."""
    node = bench.node(on, default="node-c")
    folder = bench.topology.node_directory(node.name) / "cni/net.d"
    aside = folder.with_name("net.d.aside")
    if not any(folder.iterdir()):
        raise FaultError(f"{node.name} has no network configuration that could be taken away")
    await bench.run(node.netns, ["sh", "-ec", f"mkdir {aside} && mv {folder}/* {aside}/"])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{node.name} has no network configuration in /etc/cni/net.d",
        expected=(Expected(code=FAULT.code, kind="node", node=node.name, name=node.name),),
        probe=(),
        # written anew: containerd does not heed a file that is moved there
        undo=(Command(node.netns, ("sh", "-c", f"cp {aside}/* {folder}/ && rm -r {aside}")),),
    )


FAULT = Fault(
    code="cni.not_ready",
    title="a node's network plugin is not configured: pods that start there get no network",
    target="node/NAME",
    make=make,
)
