"""Who gets in while the Kubernetes API is away: whoever was known, at once and for ten minutes; nobody else."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from controller import auth
from controller.auth import LINGER_S, PERSON_CACHE_S, READ, Authenticator, DeniedError


class Clock:
    """Stands where it is put."""

    now = 1000.0

    def monotonic(self) -> float:
        """See model.clock."""
        return self.now

    def wall(self) -> float:
        """See model.clock."""
        return self.now


class Api:
    """Lets everybody in, until it says nothing more; and then does not even heed that nobody waits any longer."""

    away = False
    allowed = True

    async def post(self, path: str, _body: dict[str, Any], _timeout_s: float = 0.0) -> dict[str, Any]:
        """See controller.auth."""
        while self.away:
            try:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                continue
        if path.endswith("tokenreviews"):
            return {"status": {"authenticated": True, "user": {"username": "somebody"}}}
        return {"status": {"allowed": self.allowed}}


async def test_whoever_was_let_in_stays_in_and_hardly_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request in ten seconds asks, and soon gives up; strangers are told that nobody can say."""
    monkeypatch.setattr(auth, "REVIEW_S", 0.5)
    monkeypatch.setattr(auth, "REVIEW_KNOWN_S", 0.2)
    api, clock = Api(), Clock()
    door = Authenticator(api, clock, "kubereach", "kubereach-agent")
    assert (await door.person("known", READ)).name == "somebody"
    api.away = True
    clock.now += PERSON_CACHE_S + 1
    began = time.monotonic()
    for _ in range(50):
        assert (await door.person("known", READ)).name == "somebody"
    assert time.monotonic() - began < 5, "each would wait for 0.2 s"
    with pytest.raises(DeniedError) as refused:
        await door.person("stranger", READ)
    assert refused.value.status == 503
    clock.now += LINGER_S
    with pytest.raises(DeniedError) as refused:
        await door.person("known", READ)
    assert refused.value.status == 503
    api.away = False


async def test_a_refusal_stands_once_the_api_is_back() -> None:
    """Rights that were taken away meanwhile are gone with the first answer."""
    api, clock = Api(), Clock()
    door = Authenticator(api, clock, "kubereach", "kubereach-agent")
    await door.person("known", READ)
    api.allowed = False
    clock.now += PERSON_CACHE_S + 1
    with pytest.raises(DeniedError) as refused:
        await door.person("known", READ)
    assert refused.value.status == 403
