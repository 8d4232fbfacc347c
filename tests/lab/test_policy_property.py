"""The expectation held against a kernel: random policies and pods in a lab, whose enforcement was written apart.

A short run here; `python -m tests.lab.test_policy_property CNI SEED SETS` makes a long one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from controller.policy import (
    AddressRef,
    PeerRef,
    PodRef,
    PolicyModel,
    parse_namespace,
    parse_node,
    parse_pod,
    parse_policy,
)
from lab.client import ApiClient, ApiError
from lab.spec import LabSpec
from tests.lab.labs import Lab, Probe, eventually, probe_all
from tests.lab.random_policies import SPACES, TCP, UDP, labels, pod, policy

PODS = 8
SETS = 3
SETS_A_POD = 25
POLICIES = "networking/networkpolicies"
OUTSIDE_PORT = 443
APPLIED_S = 0.25
AGREED_S = 8.0
ANSWER_S = 0.35


@dataclass
class Trial:
    """A lab with random pods in it."""

    lab: Lab
    rng: Random
    decided: int = 0

    async def renew_pods(self) -> None:
        """Other pods in the place of those that there are, and the namespaces if they are missing."""
        async with self._api() as api:
            for name, chosen in SPACES.items():
                body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": chosen}}
                try:
                    await api.create("namespaces", body)
                except ApiError:
                    for old in await api.list("pods", name):
                        await api.delete("pods", old["metadata"]["name"], name)
        eventually(lambda: not self._pods(), "the former pods are gone", 30)
        nodes = [node.name for node in self.lab.plan.nodes]
        async with self._api() as api:
            for at in range(PODS):
                made = pod(self.rng, at, nodes)
                await api.create("pods", made, made["metadata"]["namespace"])
        eventually(
            lambda: len([p for p in self._pods() if len(p["status"].get("podIPs", ())) == 2]) == PODS, "pods", 30
        )
        own = [Probe(self._netns(p), "127.0.0.1", port) for p in self._pods() for port in TCP]
        eventually(lambda: all(probe_all(own).values()), "pods listen", 30)

    async def apply(self) -> None:
        """New labels for every pod, and new policies in the place of those that there are."""
        async with self._api() as api:
            for space in SPACES:
                for old in await api.list(POLICIES, space):
                    await api.delete(POLICIES, old["metadata"]["name"], space)
                for found in await api.list("pods", space):
                    chosen = labels(self.rng)
                    gone = {key: None for key in found["metadata"].get("labels", {}) if key not in chosen}
                    body = {"metadata": {"labels": {**gone, **chosen}}}
                    await api.patch("pods", found["metadata"]["name"], body, space)
            for at in range(self.rng.randint(1, 5)):
                made = policy(self.rng, at)
                await api.create(POLICIES, made, made["metadata"]["namespace"])

    def expected(self) -> dict[Probe, bool]:
        """What the evaluator says of every pod to every other and to the outside, where it says anything."""
        model = self._model()
        pods, found = self._pods(), {}
        targets: list[tuple[PeerRef | None, str, list[tuple[str, int]]]] = []
        for other in pods:
            asked = [("TCP", port) for port in TCP] + [("UDP", port) for port in UDP]
            targets += [(_ref(other), entry["ip"], asked) for entry in other["status"]["podIPs"]]
        outside = (self.lab.plan.outside_ipv4, self.lab.plan.outside_ipv6 or "")
        targets += [(AddressRef(address), address, [("TCP", OUTSIDE_PORT)]) for address in outside]
        for source in pods:
            for target, address, asked in targets:
                if target is None or target == _ref(source):
                    continue
                for protocol, port in asked:
                    decision = model.decide(_ref(source), target, protocol, port, 6 if ":" in address else 4)
                    if decision.allowed is not None:
                        found[Probe(self._netns(source), address, port, protocol)] = decision.allowed
        return found

    def disagreement(self) -> list[str]:
        """What the kernel does otherwise than expected, after it had the time to follow."""
        expected = self.expected()
        self.decided += len(expected)
        time.sleep(APPLIED_S)
        end = time.monotonic() + AGREED_S
        while True:
            answers = probe_all(expected, ANSWER_S)
            wrong = [f"{p} passes: {answers[p]}" for p, want in expected.items() if answers[p] is not want]
            if not wrong or time.monotonic() > end:
                return wrong

    def _model(self) -> PolicyModel:
        policies = [raw for raw in self.lab.objects("networkpolicies") if raw["metadata"]["namespace"] in SPACES]
        return PolicyModel.build(
            [parse_namespace(raw) for raw in self.lab.objects("namespaces")],
            [parse_pod(raw) for raw in self.lab.objects("pods")],
            [parse_policy(raw) for raw in policies],
            nodes=[parse_node(raw) for raw in self.lab.objects("nodes")],
        )

    def _pods(self) -> list[dict[str, Any]]:
        return [raw for raw in self.lab.objects("pods") if raw["metadata"]["namespace"] in SPACES]

    def _netns(self, raw: dict[str, Any]) -> str:
        return self.lab.plan.pod_netns(raw["metadata"]["namespace"], raw["metadata"]["name"])

    def _api(self) -> ApiClient:
        return ApiClient.from_kubeconfig(Path(self.lab.state.kubeconfig))


def _ref(raw: dict[str, Any]) -> PodRef:
    return PodRef(raw["metadata"]["namespace"], raw["metadata"]["name"])


def run(trial: Trial, sets: int) -> None:
    """Try so many sets; fails with the policies of the first on which evaluator and kernel disagree."""
    for at in range(sets):
        if at % SETS_A_POD == 0:
            asyncio.run(trial.renew_pods())
        asyncio.run(trial.apply())
        wrong = trial.disagreement()
        if wrong:
            held = [p for p in trial.lab.objects("networkpolicies") if p["metadata"]["namespace"] in SPACES]
            shown = json.dumps([[p["metadata"]["namespace"], p["metadata"]["name"], p["spec"]] for p in held])
            raise AssertionError(f"set {at}: {len(wrong)} answers differ, such as {wrong[:4]}; policies: {shown}")


@pytest.fixture(scope="module", params=["flannel-vxlan", "calico"])
def enforcing(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab of each shape of enforcement."""
    up = Lab(LabSpec(f"q{os.getpid()}", nodes=3, cni=request.param))
    yield up
    up.down()


def test_the_kernel_does_what_the_evaluator_says(enforcing: Lab) -> None:
    """Random sets of policies, every pod to every other and to the outside, both families: no disagreement."""
    trial = Trial(enforcing, Random(6))
    run(trial, SETS)
    assert trial.decided > SETS * PODS * (PODS - 1)


def main(argv: list[str]) -> int:
    """A long run: CNI, seed, number of sets."""
    cni, seed, sets = argv[0], int(argv[1]), int(argv[2])
    held = Lab(LabSpec(f"q{os.getpid()}", nodes=3, cni=cni))
    began = time.monotonic()
    try:
        trial = Trial(held, Random(seed))
        run(trial, sets)
        print(f"{cni}: {sets} sets, {trial.decided} decisions, no disagreement, {time.monotonic() - began:.0f} s")
    finally:
        held.down()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
