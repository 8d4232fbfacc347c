"""What all commands' parsers share: global options, one-line errors, help that reads well.

It must stay light (argparse alone): it is loaded before anybody knows which command will run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from cli.targets import PROTOCOLS, TargetError, parse_port

EXIT_OK, EXIT_WRONG, EXIT_USAGE, EXIT_INCONCLUSIVE, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130
EXIT_CODES = """exit codes:
  0  as it should be (blocked as NetworkPolicy intends is as it should be)
  1  something is wrong with the network, and it is named
  2  usage or configuration error
  3  inconclusive; the missing evidence is listed
  4  the controller cannot be reached"""
OUTPUTS = ("table", "wide", "json", "yaml")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return action.dest.upper()


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that names the input and the way out, with exit code 2."""

    def __init__(
        self, prog: str, description: str, examples: str = "", *, words: str = "", exit_codes: bool = True
    ) -> None:
        epilog = "\n\n".join(part for part in (examples, EXIT_CODES if exit_codes else "") if part)
        super().__init__(
            prog=prog,
            usage=" ".join(filter(None, (prog, words, "[options]"))),
            description=description,
            epilog=epilog,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self._optionals.title = "options"

    def error(self, message: str) -> NoReturn:
        """One line on stderr, exit code 2."""
        words = message.removeprefix("argument ")
        sys.stderr.write(f"error: {words}; see '{self.prog} --help'\n")
        sys.exit(EXIT_USAGE)


def add_access(parser: argparse.ArgumentParser) -> None:
    """The global options: which controller, and colour."""
    group = parser.add_argument_group("which cluster")
    group.add_argument("--lab", metavar="NAME", help="the lab of this name (or KUBEREACH_LAB); none if one lab runs")
    group.add_argument("--url", help="address of the controller (or KUBEREACH_URL)")
    group.add_argument("--token", help="token for --url (or KUBEREACH_TOKEN, which no process list shows)")
    group.add_argument("--kubeconfig", metavar="FILE", help="its cluster's controller (no lab runs: the current one)")
    parser.add_argument("--no-color", action="store_true", help="no colour, also on a terminal")


def add_output(parser: argparse.ArgumentParser) -> None:
    """-o/--output of every reading command."""
    parser.add_argument(
        "-o", "--output", metavar="FORMAT", default="table", type=one_of(OUTPUTS), help="table, wide, json or yaml"
    )


def command_parser(name: str, description: str, examples: str, words: str = "") -> Parser:
    """The parser of a command that asks the controller; `words` are its arguments, for the first line of its help.

    The caller adds its own options, and `add_access` as the last.
    """
    parser = Parser(f"kubereach {name}", description, examples, words=words)
    add_output(parser)
    return parser


def one_of(words: Sequence[str]) -> Callable[[str], str]:
    """An argparse type: one of these words, or an error that lists them."""

    def read(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"'{text}' is unknown; use one of {', '.join(words)}")
        return text

    return read


def protocol(text: str) -> str:
    """An argparse type: a protocol to probe by."""
    return one_of(PROTOCOLS)(text.lower())


def port(text: str) -> int:
    """An argparse type: a port from 1 to 65535."""
    try:
        return parse_port(text)
    except TargetError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"'{text}' is not accepted; write a whole number from {low} to {high}")
        return int(text)

    return read


def milliseconds(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a duration (500ms, 2s; a bare number is seconds), in milliseconds."""

    def read(text: str) -> int:
        number, factor = (text[:-2], 1.0) if text.endswith("ms") else (text.removesuffix("s"), 1000.0)
        try:
            value = round(float(number) * factor)
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"'{text}' is no duration; write for example 500ms or 2s") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"'{text}' is out of range; write {low}ms to {high / 1000:g}s")
        return value

    return read
