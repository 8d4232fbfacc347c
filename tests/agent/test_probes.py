"""Probes on demand by the real child, against real sockets in a namespace of its own."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.probers.dnswire import TYPES, WireError, decode_reply, encode_name, encode_question
from lab import netns, pki
from model.probes import ProbeOrder, ProbeResult
from model.words import Method, Outcome
from tests.agent.bed import HOST, ROOT, Net


@pytest.fixture(scope="module")
def hosts(net: Net) -> Iterator[tuple[str, str]]:
    """Two hosts: the asker (10.9.0.2) and the asked (10.9.0.3), whose MTU is 1500."""
    yield net.add("asker", 2), net.add("asked", 3)


def probe(namespace: str, ca: str = "", **order: object) -> ProbeResult:
    """Run the child as the agent does."""
    asked = ProbeOrder(**{"vantage": HOST, "family": 4, "address": "10.9.0.3", "count": 1, **order})  # type: ignore[arg-type]
    done = subprocess.run(
        [sys.executable, "-E", "-s", "-m", "agent.probers", "--netns", netns.path_of(namespace), "--ca", ca],
        input=msgspec.json.encode(asked),
        capture_output=True,
        timeout=20,
        check=True,
        cwd=ROOT,
    )
    return msgspec.json.decode(done.stdout, type=ProbeResult)


class Server:
    """A socket served by a thread: `answer` gets a datagram, or a connection's first bytes, and says what to send."""

    def __init__(
        self,
        namespace: str,
        kind: int,
        port: int,
        answer: Callable[[bytes], bytes | None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._answer = answer
        self._tls = tls

        def bind() -> socket.socket:
            sock = socket.socket(socket.AF_INET, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("10.9.0.3", port))
            if kind == socket.SOCK_STREAM:
                sock.listen()
            return sock

        self._socket = netns.call_in(namespace, bind)
        self._socket.settimeout(0.1)
        self._ended = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._ended:
            try:
                if self._socket.type == socket.SOCK_DGRAM:
                    data, peer = self._socket.recvfrom(65535)
                    reply = self._answer(data)
                    if reply is not None:
                        self._socket.sendto(reply, peer)
                else:
                    accepted, _ = self._socket.accept()
                    accepted.settimeout(2)
                    if self._tls:
                        accepted = self._tls.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
                    with accepted:
                        reply = self._answer(accepted.recv(65535))
                        if reply is not None:
                            accepted.sendall(reply)
            except OSError:
                continue


def dns_answer(rcode: int, address: str = "") -> Callable[[bytes], bytes]:
    """An answer to any question, with one A record if an address is given."""

    def answer(query: bytes) -> bytes:
        record = b""
        if address:
            record = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + socket.inet_aton(address)
        head = query[:2] + bytes((0x81, 0x80 | rcode)) + b"\0\1" + bytes((0, bool(address))) + b"\0\0\0\0"
        return head + query[12:] + record

    return answer


def other_question(query: bytes) -> bytes:
    """An answer to another question than the one asked."""
    return dns_answer(0)(query).replace(b"one", b"two")


@pytest.mark.parametrize(
    ("answer", "outcome", "detail"),
    [
        pytest.param(dns_answer(0, "192.0.2.7"), Outcome.OK, "", id="answer"),
        pytest.param(dns_answer(0), Outcome.OK, "", id="no-data"),
        pytest.param(dns_answer(3), Outcome.NAME_NOT_FOUND, "NXDOMAIN", id="nxdomain"),
        pytest.param(dns_answer(2), Outcome.SERVER_FAILURE, "SERVFAIL", id="servfail"),
        pytest.param(dns_answer(5), Outcome.SERVER_FAILURE, "REFUSED", id="refused"),
        pytest.param(lambda q: b"\0\0" + dns_answer(0)(q)[2:], Outcome.WRONG_ANSWER, "the id", id="wrong-id"),
        pytest.param(other_question, Outcome.WRONG_ANSWER, "it answers", id="wrong-question"),
        pytest.param(lambda q: q[:7], Outcome.WRONG_ANSWER, "malformed", id="cut-off"),
        pytest.param(lambda _: None, Outcome.TIMEOUT, "", id="silence"),
    ],
)
@pytest.mark.parametrize("over_tcp", [False, True], ids=["udp", "tcp"])
def test_dns_outcomes(
    hosts: tuple[str, str],
    answer: Callable[[bytes], bytes | None],
    outcome: Outcome,
    detail: str,
    over_tcp: bool,
) -> None:
    """Each way of a DNS server to answer, or not to, has its own outcome."""

    def framed(data: bytes) -> bytes | None:
        reply = answer(data[2:])
        # Silence over TCP is a connection that stays open.
        if reply is None:
            time.sleep(0.5)
            return None
        return len(reply).to_bytes(2, "big") + reply

    kind = socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM
    with Server(hosts[1], kind, 53, framed if over_tcp else answer):
        result = probe(
            hosts[0], method=Method.DNS, port=53, name="one.test", record="A", over_tcp=over_tcp, timeout_ms=300
        )
    (attempt,) = result.attempts
    assert attempt.outcome is outcome, attempt
    assert attempt.detail.startswith(detail or ("connected" if over_tcp and outcome is Outcome.TIMEOUT else ""))
    if outcome is Outcome.OK and answer(encode_question(1, "one.test", "A"))[7]:  # type: ignore[index]
        assert attempt.answer == ("A 192.0.2.7",)


def test_datagrams_of_a_size_are_told_too_big(hosts: tuple[str, str]) -> None:
    """With DF, what fits passes, and what does not is `too_big`; without DF it is cut up and passes."""
    common = {"method": Method.ICMP, "timeout_ms": 500}
    assert probe(hosts[0], size=1472, dont_fragment=True, **common).outcome is Outcome.OK
    too_big = probe(hosts[0], size=1473, dont_fragment=True, **common)
    assert too_big.outcome is Outcome.TOO_BIG
    assert probe(hosts[0], size=1473, **common).outcome is Outcome.OK
    six = probe(hosts[0], family=6, address="fd09::3", size=1473, dont_fragment=True, **common)
    assert six.outcome is Outcome.TOO_BIG


def test_source_ports_are_taken_in_turn(hosts: tuple[str, str]) -> None:
    """Given source ports are bound, one after the other."""
    with Server(hosts[1], socket.SOCK_DGRAM, 8700, lambda data: data):
        result = probe(
            hosts[0], method=Method.UDP, port=8700, count=4, interval_ms=5, source_ports=(40001, 40002), size=100
        )
    assert [a.source_port for a in result.attempts] == [40001, 40002, 40001, 40002]
    assert result.outcome is Outcome.OK
    assert {a.source_address for a in result.attempts} == {"10.9.0.2"}


def test_udp_that_is_no_echo_is_a_wrong_answer(hosts: tuple[str, str]) -> None:
    """On kubereach's own port something else answers; on any other port an answer is all that was asked for."""
    for port, outcome in ((8700, Outcome.WRONG_ANSWER), (5353, Outcome.OK)):
        with Server(hosts[1], socket.SOCK_DGRAM, port, lambda _: b"hello"):
            assert probe(hosts[0], method=Method.UDP, port=port).outcome is outcome


def test_unreachable_neighbour_is_told_by_the_kernel(hosts: tuple[str, str]) -> None:
    """Where nobody answers for an address on the link, TCP hears of it from the own kernel."""
    result = probe(hosts[0], method=Method.TCP, port=1, address="10.9.0.200", timeout_ms=5000)
    (attempt,) = result.attempts
    assert (attempt.outcome, attempt.detail) == (Outcome.UNREACHABLE, "icmp 3/1 from 10.9.0.2")


@pytest.mark.parametrize(
    ("answer", "outcome", "detail", "status"),
    [
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", Outcome.OK, "", 204, id="ok"),
        pytest.param(b"HTTP/1.1 404 Not Found\r\n\r\n", Outcome.OK, "", 404, id="not-found-is-reached"),
        pytest.param(b"HTTP/1.1 503 Busy\r\n\r\n", Outcome.HTTP_ERROR, "status 503", 503, id="server-error"),
        pytest.param(b"SSH-2.0-x\r\n", Outcome.WRONG_ANSWER, "the answer is no HTTP", 0, id="no-http"),
        pytest.param(b"", Outcome.RESET, "connection closed", 0, id="closed"),
    ],
)
def test_http_outcomes(hosts: tuple[str, str], answer: bytes, outcome: Outcome, detail: str, status: int) -> None:
    """What the far end makes of a request, with the phases up to there."""
    with Server(hosts[1], socket.SOCK_STREAM, 80, lambda _: answer):
        (attempt,) = probe(hosts[0], method=Method.HTTP, name="http://any.test/x").attempts
    assert (attempt.outcome, attempt.status) == (outcome, status), attempt
    assert attempt.detail.startswith(detail)
    assert {"dns", "connect", "total"} <= attempt.phases.keys()


def test_https_names_the_certificate_that_is_not_valid(hosts: tuple[str, str], tmp_path: Path) -> None:
    """A certificate of the cluster's CA passes; one for another name is a TLS error that tells whose it is."""
    pki.make_ca(tmp_path)
    pair = pki.issue(tmp_path, "right.test", dns_names=["right.test"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.cert, pair.key)
    ca = str(tmp_path / "ca.crt")
    with Server(hosts[1], socket.SOCK_STREAM, 443, lambda _: b"HTTP/1.1 200 OK\r\n\r\n", tls):
        (right,) = probe(hosts[0], ca, method=Method.HTTP, name="https://right.test/").attempts
        (wrong,) = probe(hosts[0], ca, method=Method.HTTP, name="https://wrong.test/").attempts
        (unknown,) = probe(hosts[0], "", method=Method.HTTP, name="https://right.test/").attempts
    assert right.outcome is Outcome.OK
    assert {"tls", "first_byte"} <= right.phases.keys()
    for refused in (wrong, unknown):
        assert refused.outcome is Outcome.TLS_ERROR
        assert "subject CN=right.test" in refused.detail
        assert "not after 20" in refused.detail
    assert "mismatch" in wrong.detail


def test_first_answer_of_the_child_is_quick(hosts: tuple[str, str]) -> None:
    """Starting the child costs the user no second: the best of three is well under half of one, on a busy machine."""

    def once() -> float:
        before = time.monotonic()
        assert probe(hosts[0], method=Method.ICMP).outcome is Outcome.OK
        return time.monotonic() - before

    assert min(once() for _ in range(3)) < 0.5


def test_unusable_order_is_answered(hosts: tuple[str, str]) -> None:
    """What is no order, and a namespace that is not there, are answers with an error."""
    for arguments, stdin in ((["--netns", "/nowhere"], None), ([], b"{}")):
        order = ProbeOrder(vantage=HOST, method=Method.ICMP, family=4, address="127.0.0.1")
        done = subprocess.run(
            [sys.executable, "-E", "-s", "-m", "agent.probers", *arguments],
            input=stdin or msgspec.json.encode(order),
            capture_output=True,
            timeout=10,
            check=True,
            cwd=ROOT,
        )
        assert json.loads(done.stdout)["error"]


@pytest.mark.parametrize("name", ["a" * 64 + ".test", "a..test", ".".join(["a" * 60] * 5)])
def test_names_that_cannot_be_asked_for(name: str) -> None:
    """RFC 1035: labels of 1 to 63 octets, names of up to 255."""
    with pytest.raises(WireError):
        encode_name(name)


def test_name_that_points_at_itself_is_malformed() -> None:
    """A hostile answer must not keep us reading forever."""
    query = encode_question(7, "x.test", "A")
    loop = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + b"\xc0\x0c" + query[-4:]
    with pytest.raises(WireError):
        decode_reply(loop, query)


@pytest.mark.parametrize("record", sorted(TYPES))
def test_answers_agree_with_an_independent_library(record: str) -> None:
    """Names, types and data read from the wire are those that dnspython wrote."""
    import dns.message
    import dns.rrset

    data = {
        "A": "192.0.2.1",
        "AAAA": "2001:db8::1",
        "CNAME": "other.test.",
        "NS": "ns.test.",
        "PTR": "host.test.",
        "MX": "10 mail.test.",
        "SRV": "1 2 8080 back.test.",
        "TXT": '"some text"',
        "SOA": "ns.test. admin.test. 1 2 3 4 5",
    }[record]
    query = encode_question(77, "x.test", record)
    message = dns.message.make_response(dns.message.from_wire(query))
    message.answer.append(dns.rrset.from_text("x.test.", 5, "IN", record, data))
    (read,) = decode_reply(message.to_wire(), query).records
    wanted = {"TXT": "some text", "SOA": "ns.test."}.get(record, data)
    assert read == f"{record} {wanted}"
