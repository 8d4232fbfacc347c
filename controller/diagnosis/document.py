"""Writes the fault catalogue as documentation, from the causes themselves (`make docs`)."""

from __future__ import annotations

import sys

from controller.diagnosis.catalogue import CauseType, catalogue

HEAD = """# The catalogue of causes

Generated from `controller/diagnosis/causes/` (`make docs`); one file there is one cause. Each has a twin in
`lab/faults/`, which breaks a lab in just that way: `kubereach lab break CODE`. What fits none of them is called
*inconclusive*, with what was ruled out and which evidence is missing.
"""


def document(causes: tuple[CauseType, ...]) -> str:
    """The whole page in Markdown."""
    return HEAD + "".join(_section(cause) for cause in causes)


def _section(cause: CauseType) -> str:
    lines = [f"\n## {cause.code}\n", f"{cause.title}.\n", f"- Sign: {cause.sign}.", f"- Evidence: {cause.evidence}."]
    if cause.suppresses:
        lines.append(f"- Explains away: {', '.join(f'`{code}`' for code in sorted(cause.suppresses))}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document(catalogue()))
