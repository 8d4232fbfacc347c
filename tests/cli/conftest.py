"""The command as its users start it: a real process, against the API over real HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.web.stub_controller import TOKEN, StubController

DEADLINE_S = 60
OWN = ("KUBEREACH_URL", "KUBEREACH_TOKEN", "KUBEREACH_LAB", "KUBEREACH_CA", "COLUMNS", "FORCE_COLOR", "NO_COLOR")


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    @property
    def error_line(self) -> str:
        """The one line on stderr; there must not be a second, nor anything on stdout."""
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0]


Kubereach = Callable[..., Awaitable[Done]]


async def run_kubereach(*words: str, **environ: str) -> Done:
    """Runs `kubereach WORDS…` with `environ` in place of the settings that this machine may have."""
    settings = {key: value for key, value in os.environ.items() if key not in OWN} | environ
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", *words, stdout=-1, stderr=-1, stdin=asyncio.subprocess.DEVNULL, env=settings
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


@pytest_asyncio.fixture
async def stub() -> AsyncIterator[StubController]:
    """A controller with four healthy nodes."""
    controller = StubController(4)
    await controller.start()
    try:
        yield controller
    finally:
        await controller.stop()


@pytest.fixture
def kubereach(stub: StubController) -> Kubereach:
    """`kubereach` led to the stub by its environment."""

    async def run(*words: str, **environ: str) -> Done:
        return await run_kubereach(*words, **{"KUBEREACH_URL": stub.url, "KUBEREACH_TOKEN": TOKEN, **environ})

    return run
