"""Makes what a real Kubernetes needs, once: binaries from pinned Go modules, and one archive of images.

`python -m lab.kubernetes.build` does it ahead of time. Versions and checksums of everything stand in module/go.mod and
go.sum; what was made is kept in the cache and made anew only when one of those changes. It is one module, so that what
the programs share, which is most of it, is compiled once. Starts nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lab.kubernetes import images

MODULE: Final = Path(__file__).parent / "module"
PLUGINS: Final = ("bridge", "host-local", "loopback", "portmap")
"""Debian's network plugins that flannel's delegates to."""
PLUGIN_DIRECTORIES: Final = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
TELL_EVERY_S: Final = 20.0
OLDEST_GO: Final = (1, 25)

Progress = Callable[[str], None]


class BuildError(RuntimeError):
    """Why it cannot be built, in one line."""


PACKAGES: Final = (
    *(
        f"k8s.io/kubernetes/cmd/{name}"
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
    ),
    "github.com/flannel-io/flannel",
    "github.com/coredns/coredns",
    "kubereach.test/kubernetes/pause",
    "kubereach.test/kubernetes/flannel-cni",
)
BINARIES: Final = tuple(package.rpartition("/")[2] for package in PACKAGES)
# Names are resolved without libc, so that coredns runs where nothing else is; cgo is for flannel's backend udp.
BUILD: Final = ("build", "-trimpath", "-tags", "netgo,osusergo")


def cache_directory() -> Path:
    """Where everything is kept: KUBEREACH_CACHE, else ~/.cache/kubereach; `kubernetes` in it."""
    base = os.environ.get("KUBEREACH_CACHE") or Path.home() / ".cache/kubereach"
    return Path(base).resolve() / "kubernetes"


def binary(name: str) -> str:
    """Path of a binary that `ensure` made."""
    return str(cache_directory() / "bin" / name)


def plugin_directory() -> Path:
    """Where the network plugins' programs lie that `ensure` gathered."""
    return cache_directory() / "cni"


def image_archive() -> Path:
    """The archive of images that `ensure` made."""
    return cache_directory() / "images.tar"


def version() -> str:
    """The version of Kubernetes that is pinned, e.g. v1.34.4."""
    match = re.search(r"k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text())
    if match is None:
        raise BuildError(f"{MODULE / 'go.mod'}: no version of k8s.io/kubernetes in it")
    return match[1]


def ensure(progress: Progress) -> None:
    """Build what is missing or old (minutes the first time, then nothing); raises BuildError."""
    cache = cache_directory()
    (cache / "bin").mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock", progress):
        _ensure_binaries(cache, progress)
        _ensure_plugins(cache)
        wanted = images.fingerprint([cache / "bin" / name for name in ("pause", "coredns")])
        stamp = cache / "images.stamp"
        if not image_archive().exists() or not stamp.exists() or stamp.read_text() != wanted:
            progress("building Kubernetes: images")
            images.write_lab_images(image_archive(), cache / "bin")
            stamp.write_text(wanted)


@contextmanager
def locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock among processes while something is built; says so if another has it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process builds this, waiting for that")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ensure_binaries(cache: Path, progress: Progress) -> None:
    package, number = "k8s.io/component-base/version", version()
    major, minor = number.removeprefix("v").split(".")[:2]
    flags = f"-s -w -X {package}.gitVersion={number} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    stamp = cache / "bin" / ".stamp"
    wanted = _fingerprint(flags)
    whole = all((cache / "bin" / name).exists() for name in BINARIES)
    if whole and stamp.exists() and stamp.read_text() == wanted:
        return
    fresh = cache / "new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    _compile(flags, fresh, progress)
    for name in BINARIES:
        (fresh / name).replace(cache / "bin" / name)
    fresh.rmdir()
    stamp.write_text(wanted)


def _fingerprint(flags: str) -> str:
    digest = hashlib.sha256(" ".join([*BUILD, flags, *PACKAGES]).encode())
    for path in sorted(MODULE.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(MODULE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _go() -> str:
    go = shutil.which("go", path=os.environ.get("PATH", "") + ":/usr/local/go/bin:/usr/lib/go/bin")
    needed = ".".join(map(str, OLDEST_GO))
    advice = f"install Go {needed} or newer (its project's archive, or Debian's golang-go from backports) on the PATH"
    if go is None:
        raise BuildError(f"building Kubernetes needs Go, and there is no `go` here: {advice}")
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    match = re.match(r"go(\d+)\.(\d+)", said)
    if match is None or (int(match[1]), int(match[2])) < OLDEST_GO:
        raise BuildError(f"building Kubernetes needs a newer Go than {said.strip() or go}: {advice}")
    return go


def _compile(flags: str, target: Path, progress: Progress) -> None:
    """Run the compiler; with -v it names each package when it is done, which is the progress there is."""
    argv = [_go(), *BUILD, "-v", "-ldflags", flags, "-o", f"{target}/", *PACKAGES]
    environment = {**os.environ, "CGO_ENABLED": "1", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    if shutil.which("gcc") is None:
        raise BuildError("building Kubernetes needs gcc (scripts/install --kubernetes)")
    begun = told = time.monotonic()
    what = "building Kubernetes, once"
    progress(f"{what}: {', '.join(BINARIES)}")
    process = subprocess.Popen(
        argv,
        cwd=MODULE,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    count = 0
    last: list[str] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            last = [*last[-7:], line.strip()]
            count += not line.startswith("go: ")
            if time.monotonic() - told > TELL_EVERY_S:
                told = time.monotonic()
                step = f"{count} packages compiled" if count else line.strip()
                progress(f"{what}: {step}, {told - begun:.0f} s")
    finally:
        if process.poll() is None and sys.exc_info()[0] is not None:
            process.terminate()
        code = process.wait()
    if code:
        raise BuildError(f"building Kubernetes failed: {' | '.join(last)[-800:]}")


def _ensure_plugins(cache: Path) -> None:
    """Gather the plugins' programs in one folder, as /opt/cni/bin has them on a node."""
    target = plugin_directory()
    target.mkdir(exist_ok=True)
    source = next((base for base in PLUGIN_DIRECTORIES if all((base / name).exists() for name in PLUGINS)), None)
    if source is None:
        raise BuildError(f"no network plugins ({', '.join(PLUGINS)}) on this machine (scripts/install --kubernetes)")
    wanted = {name: source / name for name in PLUGINS} | {"flannel": cache / "bin/flannel-cni"}
    for name, path in wanted.items():
        have = target / name
        if not have.exists() or have.stat().st_mtime_ns != path.stat().st_mtime_ns:
            partial = target / f".{name}"
            shutil.copy2(path, partial)
            partial.replace(have)


def main() -> int:
    """Build everything, with progress on standard error."""
    try:
        ensure(lambda text: print(text, file=sys.stderr, flush=True))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
