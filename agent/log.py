"""One line a message on standard error: `level message key=value …`.

Must not flood: a message that repeats is told once in `QUIET_S` seconds, with how often it was kept back.
"""

from __future__ import annotations

import sys
import time
from typing import Final

QUIET_S: Final = 10.0
_MAX_REMEMBERED: Final = 256
_last: dict[tuple[str, str], tuple[float, int]] = {}


def _value(value: object) -> str:
    text = str(value)
    if text and not any(c.isspace() or c in '"=' for c in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def log(level: str, message: str, **values: object) -> None:
    """Write one line; level is info, warning or error. The same message and values again within 10 s is counted."""
    now = time.monotonic()
    line = " ".join([message, *(f"{key}={_value(value)}" for key, value in values.items())])
    told, kept_back = _last.get((level, line), (float("-inf"), 0))
    if now - told < QUIET_S:
        _last[level, line] = (told, kept_back + 1)
        return
    if len(_last) >= _MAX_REMEMBERED:
        _last.clear()
    _last[level, line] = (now, 0)
    again = f" repeated={kept_back}" if kept_back else ""
    # Standard error may be gone (its reader ended): a program that watches the network lives on.
    try:
        sys.stderr.write(f"{level} {line}{again}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
