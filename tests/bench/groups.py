"""What control groups say of pods: memory and processor time, in either version of the interface (cgroups(7))."""

from __future__ import annotations

from pathlib import Path

from lab.kubernetes import cgroups


def _path(group: Path, controller: str) -> Path:
    """The same group in the hierarchy of a controller; in version 2 there is but one."""
    parts = group.relative_to(cgroups.ROOT).parts
    other = cgroups.ROOT.joinpath(controller, *parts[1:])
    return other if other.is_dir() else group


def memory_mib(group: Path) -> float:
    """Anonymous memory and page cache that the pod is charged for, in MiB; shared layers count where read first."""
    path = _path(group, "memory")
    for name in ("memory.usage_in_bytes", "memory.current"):
        if (path / name).exists():
            return int((path / name).read_text()) / 2**20
    raise FileNotFoundError(f"{path} tells no memory")


def anonymous_mib(group: Path) -> float:
    """Memory that belongs to no file, in MiB: what the pod would not give back."""
    path = _path(group, "memory")
    fields = dict(line.split() for line in (path / "memory.stat").read_text().splitlines())
    return int(fields["total_rss"] if "total_rss" in fields else fields["anon"]) / 2**20


def cpu_s(group: Path) -> float:
    """Processor time of all processes that ever were in the group, in seconds."""
    usage = _path(group, "cpuacct") / "cpuacct.usage"
    if usage.exists():
        return int(usage.read_text()) / 1e9
    fields = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(fields["usage_usec"]) / 1e6
