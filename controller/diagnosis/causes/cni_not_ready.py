"""A node's network plugin is not there, or not able: pods that start on it get no network."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.node_case import NodeCase
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.facts import CniFile
from model.words import Network

CODE = "cni.not_ready"
FOLDER = "/etc/cni/net.d"


def find(case: NodeCase) -> Iterator[Finding]:
    """Yield the node, if its configuration lacks something, or Kubernetes says that the plugin failed."""
    node = case.sign.node
    said = [
        Evidence(fact="node_condition" if case.sign.pod is None else "pod_condition", node=node, says=case.sign.says)
    ]
    files = case.facts.cni if case.facts is not None else None
    lacks, confidence = _lacks(files) if files is not None else ("", 0.0)
    failed = next((text for text in case.events if "plugin" in text or "network" in text), "")
    if lacks:
        said.append(Evidence(fact="cni_configuration", node=node, says=lacks))
    if failed:
        said.append(Evidence(fact="event", node=node, says=failed))
    if not lacks and not failed and case.sign.pod is not None:
        return
    missing = (f"the folder {FOLDER} of {node}: {case.silent}",) if files is None else ()
    cause = Cause(
        code=CODE,
        confidence=max(confidence, 0.95 if failed else 0.8),
        object=Object(kind="node", node=node, name=node),
        summary=f"pods that start on {node} get no network: {lacks or failed or 'its network plugin is not ready'}",
        evidence=tuple(said),
        fix=f"kubectl get pods -A -o wide --field-selector spec.nodeName={node}: is the network plugin's pod running "
        f"there, and what does it log? On {node}: ls {FOLDER} /opt/cni/bin",
        suppresses=CAUSE.suppresses,
    )
    scope = Scope(nodes=(node,), network=Network.POD)
    yield Finding(cause=cause, scope=scope, missing=missing, standing=True)


def _lacks(files: tuple[CniFile, ...]) -> tuple[str, float]:
    """What is wrong with the configuration that the runtime takes, the first in the folder, and how sure that is."""
    if not files:
        return f"there is no network configuration in {FOLDER}", 0.98
    first = files[0]
    if first.error:
        return f"{first.path} cannot be used: {first.error}", 0.95
    if first.missing_types:
        return f"{first.path} asks for plugins that are not installed: {', '.join(first.missing_types)}", 0.97
    return "", 0.0


CAUSE = CauseType(
    code=CODE,
    title="A node's network plugin is not ready",
    sign="no path fails: pods that start on a node wait for a network, its endpoint as well; it may be NotReady",
    evidence="the Node's condition or the pod's, the CNI folder of the host, the plugin's words in the pod's events",
    of_node=find,
    needs=frozenset({"cni"}),
    suppresses=("service.no_endpoints",),
)
