"""A Service sends to a port on which its pods do not listen."""

from __future__ import annotations

from collections.abc import Iterator

from controller.cluster.state import Pod, Service, ServicePort
from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope, columns_of
from model.diagnosis import Cause, Evidence, Object
from model.facts import Socket
from model.words import Outcome

CODE = "service.target_port_mismatch"
LOOPBACK = ("127.", "::1")


def find(case: Case) -> Iterator[Finding]:
    """Yield the Service whose backend pod was reached, refused, and listens elsewhere."""
    flow = case.flow
    pod = flow.destination.pod
    if flow.service is None or flow.service_port is None or pod is None or case.burst is None:
        return
    facts = case.facts.get(flow.destination.site)
    if facts is None or facts.sockets is None or case.burst.outcome is not Outcome.REFUSED:
        return
    listening = [s for s in facts.sockets if s.protocol == flow.protocol]
    if any(s.port == flow.port for s in listening):
        return
    elsewhere = [s for s in listening if not s.address.startswith(LOOPBACK)]
    if elsewhere:
        yield _finding(flow.service, flow.service_port, flow.port, pod, elsewhere)


def _finding(service: Service, port: ServicePort, target: int, pod: Pod, listening: list[Socket]) -> Finding:
    name = f"{service.namespace}/{service.name}"
    declared = {p.port for p in pod.container_ports}
    ports = sorted({s.port for s in listening}, key=lambda p: (p not in declared, p))
    right = ports[0]
    others = ", ".join(str(p) for p in ports)
    target_text = f"{port.target_port} ({target})" if str(port.target_port) != str(target) else str(target)
    index = next(i for i, p in enumerate(service.ports) if p == port)
    patch = f'[{{"op": "replace", "path": "/spec/ports/{index}/targetPort", "value": {right}}}]'
    cause = Cause(
        code=CODE,
        confidence=0.97 if len(ports) == 1 or right in declared else 0.9,
        object=Object(
            kind="Service",
            namespace=service.namespace,
            name=service.name,
            text=f"port {port.port} → targetPort {target_text}",
        ),
        summary=f"Service {name} port {port.port} leads to targetPort {target_text}, but its pods listen on {others}",
        evidence=(
            Evidence(
                fact="refused",
                node=pod.node,
                says=f"pod {pod.namespace}/{pod.name} answers {port.protocol} port {target} with a refusal",
            ),
            Evidence(
                fact="sockets", node=pod.node, says=f"its {port.protocol} sockets listen on {others}", value=others
            ),
        ),
        fix=f"kubectl -n {service.namespace} patch service {service.name} --type=json -p '{patch}'",
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=Scope(columns=columns_of(service, port)))


CAUSE = CauseType(
    code=CODE,
    title="A Service's targetPort is not the port on which its pods listen",
    sign="one Service (and port), refused by the pods themselves, also from their own node",
    evidence="the refusal, and the listening sockets in the pod's namespace",
    find=find,
    concerns=lambda flow: flow.service is not None and flow.destination.pod is not None,
    pod_needs=frozenset({"sockets"}),
    late=True,
    suppresses=("fabric.blocked",),
)
