"""`kubereach version`."""

from __future__ import annotations

from importlib.metadata import version

from cli.options import EXIT_OK, Parser


def main(argv: list[str]) -> int:
    """Prints the version of this command. Returns the exit code."""
    Parser("kubereach version", "Prints the version of this command.", exit_codes=False).parse_args(argv)
    print(f"kubereach {version('kubereach')}")
    return EXIT_OK
