"""Writes images as an archive that `ctr images import` and `docker load` take, without any container engine.

The lab's own images share one layer with this interpreter and its standard library: `kubereach-lab` answers
(lab/answer.py), `kubereach-endpoint` is the endpoint. `pause` and `coredns` hold one static program each.
Format: https://github.com/moby/docker-image-spec (a manifest.json that lists configurations and layers).
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

PAUSE: Final = "kubereach-pause:lab"
COREDNS: Final = "coredns:lab"
LAB: Final = "kubereach-lab:latest"
ENDPOINT: Final = "kubereach-endpoint:latest"
REPOSITORY: Final = Path(__file__).resolve().parents[2]
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
INTERPRETER: Final = "/python/bin/python3"
# Parts of the standard library that no server needs.
_LEFT_OUT: Final = {
    "test", "tests", "idlelib", "lib2to3", "tkinter", "ensurepip", "turtledemo", "pydoc_data", "distutils",
    "site-packages", "dist-packages", "sqlite3", "unittest", "curses", "dbm", "venv", "wsgiref", "xmlrpc",
}  # fmt: skip
_LIBRARY: Final = re.compile(r"(?:=> )?(/\S+) \(0x")

Layer = dict[str, Path]
"""Path in the image → file of this machine."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image: layers from the lowest up, and what runs."""

    name: str
    layers: tuple[bytes, ...]
    entrypoint: tuple[str, ...]
    environment: tuple[str, ...] = ()


def pack(files: Layer) -> bytes:
    """Return a layer (tar) of these files; owner root, same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        made: set[str] = set()
        for name in sorted(files):
            for parent in reversed(Path(name.lstrip("/")).parents[:-1]):
                if str(parent) not in made:
                    made.add(str(parent))
                    folder = tarfile.TarInfo(str(parent))
                    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(folder)
            source = files[name]
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.size = source.stat().st_size
            # byte code is valid only beside a source of the same time
            entry.mtime = int(source.stat().st_mtime)
            entry.mode = 0o755 if os.access(source, os.X_OK) else 0o644
            with source.open("rb") as data:
                archive.addfile(entry, data)
    return buffer.getvalue()


def write_archive(path: Path, contents: Sequence[Image]) -> None:
    """Write all images into one archive, whole or not at all."""
    partial = path.with_suffix(".new")
    manifest, written = [], set()
    with tarfile.open(partial, mode="w") as archive:

        def add(name: str, data: bytes) -> None:
            if name not in written:
                written.add(name)
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o644
                archive.addfile(entry, io.BytesIO(data))

        for image in contents:
            digests = [hashlib.sha256(layer).hexdigest() for layer in image.layers]
            for digest, layer in zip(digests, image.layers, strict=True):
                add(f"{digest}.tar", layer)
            config = msgspec.json.encode(_config(image, digests))
            name = f"{hashlib.sha256(config).hexdigest()}.json"
            add(name, config)
            manifest.append({"Config": name, "RepoTags": [image.name], "Layers": [f"{one}.tar" for one in digests]})
        add("manifest.json", msgspec.json.encode(manifest))
    partial.replace(path)


def _config(image: Image, digests: Iterable[str]) -> dict[str, object]:
    machine = platform.machine()
    return {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {
            "Entrypoint": list(image.entrypoint),
            "Env": ["PATH=/python/bin", *image.environment],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
    }


def libraries(program: Path) -> list[Path]:
    """Return the shared libraries and the loader of a program (ldd), as they are named."""
    said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    return [Path(name) for name in _LIBRARY.findall(said)]


def python_layer() -> Layer:
    """Return this interpreter, its libraries and the part of its standard library that a server needs."""
    program = Path(sys.executable).resolve()
    standard = Path(sysconfig.get_path("stdlib"))
    inside = f"/python/lib/{standard.name}"
    files: Layer = {INTERPRETER: program}
    extensions = [path for path in (standard / "lib-dynload").glob("*.so") if not path.name.startswith("_test")]
    for one in (program, *extensions):
        for library in libraries(one):
            files[str(library)] = library.resolve()
    for path in standard.rglob("*"):
        parts = path.relative_to(standard).parts
        if not _LEFT_OUT.isdisjoint(parts) or parts[0].startswith("config-") or not path.is_file():
            continue
        if path.suffix == ".py" or (path.suffix == ".pyc" and ".opt-" not in path.name):
            files[f"{inside}/{'/'.join(parts)}"] = path
    for path in extensions:
        files[f"{inside}/lib-dynload/{path.name}"] = path
    return files


def _own_files() -> Layer:
    named = ["lab/answer.py", "agent/__init__.py", "agent/endpoint.py", "model/__init__.py", "model/ports.py"]
    return {f"/kubereach/{name}": REPOSITORY / name for name in named}


def fingerprint(programs: Iterable[Path]) -> str:
    """Return what changes when the lab's images must be made anew."""
    digest = hashlib.sha256(f"{sys.version} {Path(sys.executable).resolve()}".encode())
    for path in (Path(__file__), *_own_files().values()):
        digest.update(path.read_bytes())
    for path in programs:
        digest.update(f"{path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def write_lab_images(path: Path, binaries: Path) -> None:
    """Write pause, coredns, kubereach-lab and kubereach-endpoint into one archive."""
    python, own = pack(python_layer()), pack(_own_files())
    write_archive(
        path,
        [
            Image(PAUSE, (pack({"/pause": binaries / "pause"}),), ("/pause",)),
            Image(COREDNS, (pack({"/coredns": binaries / "coredns"}),), ("/coredns",)),
            Image(LAB, (python, own), (INTERPRETER, "-S", "-E", "-s", "/kubereach/lab/answer.py")),
            Image(
                ENDPOINT, (python, own), (INTERPRETER, "-S", "-s", "-m", "agent.endpoint"), ("PYTHONPATH=/kubereach",)
            ),
        ],
    )
