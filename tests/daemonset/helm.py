"""The pinned helm (scripts/helm), built where it is not in the cache yet; it writes nothing into the user's home."""

from __future__ import annotations

import os
import subprocess
import tempfile

from tests.daemonset.manifests import ROOT

BUILD_S = 900


def helm(*words: str) -> str:
    """What it prints."""
    with tempfile.TemporaryDirectory() as home:
        folders = {f"HELM_{kind}_HOME": home for kind in ("CACHE", "CONFIG", "DATA")}
        argv = [str(ROOT / "scripts/helm"), *words]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=BUILD_S, check=False, env=os.environ | folders
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
