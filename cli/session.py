"""One run of a command: its console, its client, and how every way to fail becomes one line and an exit code.

Results go to stdout, progress and errors to stderr, colour only to a terminal. It must not know any document.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import msgspec
from rich.console import Console, RenderableType

from cli.client import Client, ConfigError, RefusedError, UnreachableError
from cli.locate import find_access
from cli.options import EXIT_INTERRUPTED, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE
from cli.targets import TargetError

PIPE_WIDTH = 160


class Session:
    """What a command needs: `client` and `show`. `args` are those of `cli.options.command_parser`."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.wide = args.output == "wide"
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
        no_color = True if args.no_color else None
        self.console = Console(width=width, no_color=no_color, highlight=False, emoji=False, soft_wrap=False)
        self.stderr = Console(stderr=True, no_color=no_color, highlight=False, emoji=False)
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client of the controller that options, environment or the running lab name. Raises ConfigError."""
        if self._client is None:
            args = self._args
            self._client = Client(find_access(lab=args.lab, url=args.url, token=args.token, kubeconfig=args.kubeconfig))
        return self._client

    @contextlib.contextmanager
    def working(self, words: str) -> Iterator[None]:
        """Shows on a terminal's stderr that something goes on, and what."""
        if not self.stderr.is_terminal:
            yield
            return
        with self.stderr.status(words, spinner="dots"):
            yield

    def show(self, document: Any, render: Callable[[], RenderableType]) -> None:
        """The document as the user asked for it: the API's own as JSON or YAML, else what `render` makes of it."""
        match self._args.output:
            case "json":
                print(json.dumps(document, indent=2, ensure_ascii=False))
            case "yaml":
                import yaml

                print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), end="")
            case _:
                self.console.print(render())
        sys.stdout.flush()


def run(action: Callable[[Session], int], args: argparse.Namespace) -> int:
    """Carries a command out; every failure is one line on stderr and its exit code."""
    try:
        return action(Session(args))
    except (ConfigError, TargetError) as error:
        return _fail(str(error), EXIT_USAGE)
    except UnreachableError as error:
        return _fail(str(error), EXIT_UNREACHABLE)
    except RefusedError as error:
        return _fail(*_refusal(error))
    except msgspec.ValidationError as error:
        return _fail(f"the controller's answer is not understood ({error}); use a kubereach of its version", EXIT_USAGE)
    except BrokenPipeError:
        # Whoever read us has seen enough; without this, Python complains once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)


def _refusal(error: RefusedError) -> tuple[str, int]:
    text = f"{error}; {error.hint}" if error.hint else str(error)
    if error.status in (401, 403):
        return f"the controller refuses the token: {text}", EXIT_USAGE
    if error.status >= 500 or error.status == HTTPStatus.TOO_MANY_REQUESTS:
        return f"the controller cannot answer now: {text}", EXIT_UNREACHABLE
    return text, EXIT_USAGE


def _fail(text: str, code: int) -> int:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return code
