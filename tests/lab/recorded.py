"""The recordings of real nodes (shared/recorded, beside the checkout), read for tests."""

import os
from pathlib import Path
from typing import Any

import msgspec

Object = dict[str, Any]


def recorded_dir() -> Path:
    """Return the folder; fails where it is absent, since a test without it would prove nothing."""
    beside = Path(__file__).resolve().parents[2].parent / "shared"
    folder = (beside if beside.is_dir() else Path(os.environ.get("KUBEREACH_SHARED", beside))) / "recorded"
    assert folder.is_dir(), f"no recordings in {folder}: set KUBEREACH_SHARED to the folder that holds recorded/"
    return folder


def recorded_text(name: str, suffix: str) -> str:
    """Return the text of one file."""
    return (recorded_dir() / f"{name}.{suffix}").read_text()


def recorded_objects(name: str, kind: str) -> list[Object]:
    """Return the recorded Kubernetes objects of one kind."""
    items: list[Object] = msgspec.json.decode((recorded_dir() / f"{name}.objects.json").read_bytes())["items"]
    return [item for item in items if item["kind"] == kind]
