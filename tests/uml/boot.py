"""One boot of Debian's user-mode Linux: a kernel of its own, as an ordinary program, on the host's files (read-only).

For what the machine's kernel may lack: IPVS, IPIP, netem. The folder `out` is the only one that is shared for writing.
The program is killed, with all its processes, when the time is up or when the caller ends, however it ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
INIT: Final = Path(__file__).with_name("init.sh")
MEMORY: Final = "512M"


@dataclass(frozen=True, slots=True)
class Ran:
    """Exit code of the command (None if it did not end), what it printed, and the kernel's own messages."""

    code: int | None
    output: str
    console: str


def run(command: str, out: Path, within_s: float) -> Ran:
    """Boots, runs a shell command from the repository's root as root, and switches off. `out` is /tmp/out in there."""
    (out / "run").write_text(command + "\n")
    with (out / "console").open("wb") as console:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL"),
                *("linux.uml", f"mem={MEMORY}"),
                *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
                *(f"uml_dir={out}", "con=null", "con0=null,fd:1", f"init={INIT}", f"OUT={out}", f"ROOT={ROOT}"),
            ],
            stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=within_s)
        finally:
            # The guest is alone in a PID namespace: with its first process all go.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    code = out / "code"
    return Ran(
        int(code.read_text()) if code.exists() else None,
        _text(out / "output"),
        _text(out / "console"),
    )


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
