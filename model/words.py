"""The vocabulary: one word for one thing, as a closed set of values.

Members are strings, so they travel as they are. None of them may be used as a truth value: "could not measure" is
not "blocked", and an `if outcome:` would say that it is.
"""

from __future__ import annotations

from enum import StrEnum


class Word(StrEnum):
    """A closed set of words that refuses to be taken for true or false."""

    def __bool__(self) -> bool:
        raise TypeError(f"{type(self).__name__}.{self.name} is no truth value; compare it with a member")


class Outcome(Word):
    """What became of one probe.

    `refused` is an answer from the far end (TCP RST, ICMP port unreachable); `unreachable` is an ICMP error from the
    way or the local kernel's own refusal (EHOSTUNREACH, ENETUNREACH, EPERM); `not_measured` is our own inability.
    """

    OK = "ok"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    TOO_BIG = "too_big"
    NAME_NOT_FOUND = "name_not_found"
    SERVER_FAILURE = "server_failure"
    TLS_ERROR = "tls_error"
    HTTP_ERROR = "http_error"
    WRONG_ANSWER = "wrong_answer"
    NOT_MEASURED = "not_measured"


class Method(Word):
    """How a probe asks."""

    UDP = "udp"
    TCP = "tcp"
    ICMP = "icmp"
    HTTP = "http"
    DNS = "dns"


class Network(Word):
    """Which network a path crosses: that of the hosts, or that of the pods."""

    HOST = "host"
    POD = "pod"


class MatrixKind(Word):
    """Which matrix a path belongs to; `node` is host and pod network together, `policy` what policies forbid."""

    NODE = "node"
    HOST = "host"
    POD = "pod"
    SERVICE = "service"
    DNS = "dns"
    EGRESS = "egress"
    POLICY = "policy"


class CellState(Word):
    """State of a cell of the matrix. Silence is never an answer, so it has states of its own."""

    OK = "ok"
    FAILING = "failing"
    DEGRADED = "degraded"
    UNKNOWN = "unknown"
    STALE = "stale"
    STARVED = "starved"
    UNSAMPLED = "unsampled"


class Verdict(Word):
    """Expectation held against outcome."""

    HEALTHY = "healthy"
    BLOCKED_AS_INTENDED = "blocked_as_intended"
    UNEXPECTED_BLOCK = "unexpected_block"
    UNEXPECTED_PASS = "unexpected_pass"
    UNKNOWN = "unknown"


class IncidentState(Word):
    """An incident is open until what it explains has passed again."""

    OPEN = "open"
    RESOLVED = "resolved"
