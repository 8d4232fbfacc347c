"""CNI configuration files in the order in which the runtime looks at them, and whether their plugins are there.

Source: libcni's ConfFiles (.conf, .conflist, .json; sorted by name) and ConfListFromFile.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from model.facts import CniFile

SUFFIXES = {".conf", ".conflist", ".json"}


class _Plugin(msgspec.Struct):
    type: str = ""
    ipam: _Ipam | None = None


class _Ipam(msgspec.Struct):
    type: str = ""


class _Configuration(msgspec.Struct):
    name: str = ""
    type: str = ""
    ipam: _Ipam | None = None
    plugins: list[_Plugin] | None = None


def read(conf_dir: Path, bin_dirs: Sequence[Path]) -> tuple[CniFile, ...]:
    """The files of the folder; an empty or missing folder gives none: that is a finding, not an error."""
    try:
        paths = sorted(path for path in conf_dir.iterdir() if path.suffix in SUFFIXES)
    except FileNotFoundError:
        return ()
    return tuple(_file(path, bin_dirs) for path in paths)


def _file(path: Path, bin_dirs: Sequence[Path]) -> CniFile:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Configuration)
    except (OSError, msgspec.MsgspecError) as error:
        return CniFile(path=str(path), error=str(error))
    plugins = found.plugins if found.plugins is not None else [_Plugin(found.type, found.ipam)]
    types = [plugin.type for plugin in plugins if plugin.type]
    types += [plugin.ipam.type for plugin in plugins if plugin.ipam and plugin.ipam.type]
    missing = tuple(kind for kind in types if not any((folder / kind).is_file() for folder in bin_dirs))
    flaw = "" if types else "names no plugin type"
    return CniFile(path=str(path), name=found.name, types=tuple(types), missing_types=missing, error=flaw)
