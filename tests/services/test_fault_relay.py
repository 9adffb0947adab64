"""Every byte of every kind of message passes the proxy as it was, both ways: seen with bare sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.services.faults import TOO_MANY_REQUESTS, CutAnswer, CutRequest, Drop, Fault, FaultProxy, Hold, LoseAnswer, json_error
from tests.services.s3_requests import nothing_known

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GOOGLE = "/upload/storage/v1/b/bucket/o?uploadType=media&name=a%2Fb"

AWS_CHUNKED = b"5\r\n12345\r\n0\r\nx-amz-checksum-crc32:abcdef==\r\n\r\n"


class Scripted:
    """A server of one connection after the other: reads so many bytes, sends something, and so on."""

    def __init__(self, *connections: Sequence[int | bytes]) -> None:
        self.got = [b""] * len(connections)
        self.ended = threading.Event()
        self.left = threading.Event()
        """It has ended a connection by itself."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, args=(connections,), daemon=True)

    def _serve(self, connections: Sequence[Sequence[int | bytes]]) -> None:
        for number, script in enumerate(connections):
            try:
                connection, _ = self._listening.accept()
            except OSError:  # the test is over
                return
            with connection:
                connection.settimeout(10)
                for step in script:
                    if isinstance(step, bytes):
                        connection.sendall(step)
                        continue
                    wanted = len(self.got[number]) + step
                    while len(self.got[number]) < wanted and (more := connection.recv(wanted - len(self.got[number]))):
                        self.got[number] += more
                if script[-1] == b"":
                    connection.close()
                    self.left.set()
                    continue
                with contextlib.suppress(ConnectionError):
                    while more := connection.recv(1 << 16):
                        self.got[number] += more
        self.ended.set()

    def __enter__(self) -> Scripted:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join(10)
        self._listening.close()


class Client:
    """A connection to the proxy."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.socket = socket.create_connection(("127.0.0.1", int(proxy.endpoint.rpartition(":")[2])), timeout=10)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, size: int) -> bytes:
        got = b""
        while len(got) < size and (more := self.socket.recv(size - len(got))):
            got += more
        return got

    def rest(self) -> bytes:
        return self.read(1 << 30)


@contextlib.contextmanager
def between(server: Scripted) -> Iterator[tuple[FaultProxy, Client]]:
    with server, FaultProxy(server.endpoint, names=nothing_known) as proxy:
        client = Client(proxy)
        with client.socket:
            yield proxy, client


def request(method: str, *lines: str, body: bytes = b"", target: str = "/b/k?x=1") -> bytes:
    return (
        "\r\n".join([f"{method} {target} HTTP/1.1", "hOST: signed.example:1", "X-Twice: 1", "X-Twice:2", *lines, "", ""]).encode()
        + body
    )


SENT = [
    request("GET"),
    request("PUT", "Content-Length: 5", body=b"12345"),
    request("PUT", "Transfer-Encoding: chunked", body=b"3;ext=1\r\nabc\r\n00002\r\nde\r\n0\r\nX-Amz-Checksum-Crc32: AAAAAA==\r\nB: c\r\n\r\n"),
    request("PUT", "content-encoding: aws-chunked", f"Content-Length: {len(AWS_CHUNKED)}", body=AWS_CHUNKED),
]  # fmt: skip
ANSWERED = [
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
    b"HTTP/1.1 204 \r\nx: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag:  \"x\" \r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    OK,
]  # fmt: skip


def test_several_requests_on_one_connection() -> None:
    """Requests whose lengths are told in every way, on one connection to the server too."""
    script = [step for sent, answer in zip(SENT, ANSWERED, strict=True) for step in (len(sent), answer)]
    with between(server := Scripted(script)) as (proxy, client):
        for sent, answer in zip(SENT, ANSWERED, strict=True):
            client.send(sent)
            assert client.read(len(answer)) == answer
        assert [seen.status for seen in proxy.seen()] == [304, 204, 200, 200]
    assert server.got == [b"".join(SENT)]


def test_an_answer_to_head_has_no_body() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    head, get = request("HEAD"), request("GET")
    with between(Scripted([len(head), answer, len(get), OK])) as (_, client):
        client.send(head)
        assert client.read(len(answer)) == answer
        client.send(get)
        assert client.read(len(OK)) == OK


def test_an_answer_that_ends_with_its_connection() -> None:
    sent = request("GET")
    with between(Scripted([len(sent), b"HTTP/1.1 200 OK\r\n\r\nto the end", b""])) as (_, client):
        client.send(sent)
        assert client.rest() == b"HTTP/1.1 200 OK\r\n\r\nto the end"


def test_the_servers_100_continue_reaches_the_client() -> None:
    head, body = request("PUT", "Expect: 100-continue", "Content-Length: 3"), b"abc"
    interim = b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n"
    with between(server := Scripted([len(head), interim, 3, OK])) as (_, client):
        client.send(head)
        assert client.read(len(interim)) == interim
        client.send(body)
        assert client.read(len(OK)) == OK
    assert server.got == [head + body]


def test_a_server_that_does_not_want_the_body() -> None:
    head = request("PUT", "Expect: 100-continue", "Content-Length: 3")
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    with between(server := Scripted([len(head), refusal])) as (proxy, client):
        client.send(head)
        assert client.rest() == refusal, "the connection cannot be used again: a body may follow, or not"
        assert proxy.seen()[0].sent == 0
    assert server.got == [head]


def test_an_answer_before_the_body_is_there() -> None:
    head, get = request("PUT", "Content-Length: 6"), request("GET")
    with between(server := Scripted([len(head) + 3, OK, 3 + len(get), OK])) as (_, client):
        client.send(head + b"abc")
        assert client.read(len(OK)) == OK
        time.sleep(0.1)  # the proxy does not give up meanwhile
        client.send(b"def" + get)
        assert client.read(len(OK)) == OK
    assert server.got == [head + b"abcdef" + get]


def test_a_server_that_has_ended_an_idle_connection_is_connected_again() -> None:
    sent = request("GET")
    with between(server := Scripted([len(sent), OK, b""], [len(sent), OK])) as (_, client):
        for _ in range(2):
            client.send(sent)
            assert client.read(len(OK)) == OK
            assert server.left.wait(10)
    assert server.got == [sent, sent]


def test_a_connection_ends_where_either_side_says_so() -> None:
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    for sent, answer in ((request("GET"), closing), (request("GET", "Connection: close"), OK)):
        with between(Scripted([len(sent), answer])) as (_, client):
            client.send(sent)
            assert client.rest() == answer


def test_a_client_that_leaves_in_the_middle_of_its_body() -> None:
    head = request("PUT", "Content-Length: 6")
    with between(server := Scripted([len(head) + 3])) as (_, client):
        client.send(head + b"abc")
        client.socket.close()
        assert server.ended.wait(10)
    assert server.got == [head + b"abc"]


def test_a_request_is_cut_where_the_test_says() -> None:
    sent = request("PUT", "Content-Length: 1000000", body=bytes(1_000_000))
    head = len(sent) - 1_000_000
    with between(server := Scripted([1 << 30])) as (proxy, client):
        proxy.add(CutRequest(300_001))
        with contextlib.suppress(ConnectionError):  # its own sending may fail
            client.send(sent)
        with pytest.raises(ConnectionResetError):
            client.rest()
        assert server.ended.wait(10)
    assert server.got == [sent[: head + 300_001]]


@pytest.mark.parametrize(
    ("fault", "gets"),
    [(Drop(), b""), (LoseAnswer(), b""), (CutAnswer(1, "reset"), OK[:-1]), (CutAnswer(0, "reset"), OK[:-2])],
    ids=repr,
)
def test_a_reset_is_a_reset(fault: Fault, gets: bytes) -> None:
    sent = request("GET")
    with between(server := Scripted([len(sent), OK])) as (proxy, client):
        proxy.add(fault)
        client.send(sent)
        assert client.read(len(gets)) == gets
        with pytest.raises(ConnectionResetError):
            client.rest()
    assert server.got == [b"" if isinstance(fault, Drop) else sent]


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_truncated_answer_ends_orderly(after: int) -> None:
    sent = request("GET")
    with between(Scripted([len(sent), OK])) as (proxy, client):
        proxy.add(CutAnswer(after))
        client.send(sent)
        assert client.rest() == (OK[:-2] + b"ok"[:after])


def test_a_long_answer_is_cut_at_the_byte() -> None:
    sent, head = request("GET"), b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    with between(Scripted([len(sent), head + bytes(1_000_000), b""])) as (proxy, client):
        proxy.add(CutAnswer(600_001))
        client.send(sent)
        assert client.rest() == head + bytes(600_001)


def test_an_error_for_head_has_no_body() -> None:
    with between(Scripted([1])) as (proxy, client):
        proxy.add(TOO_MANY_REQUESTS)
        client.send(request("HEAD", "Connection: close"))
        answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: ") and answer.endswith(b"\r\n\r\n")


def test_a_held_body_waits_in_the_proxy_and_the_client_is_told_once_to_go_on() -> None:
    head, body = request("PUT", "Expect: 100-continue", "Content-Length: 3"), b"abc"
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    with between(server := Scripted([len(head), interim, 3, OK])) as (proxy, client):
        held = proxy.add(Hold())
        client.send(head)
        assert client.read(len(interim)) == interim
        client.send(body)
        assert held.wait().sent == 0
        assert server.got == [b""]
        held.release()
        assert client.read(len(OK)) == OK
    assert server.got == [head + body]


def test_a_server_that_is_not_s3() -> None:
    """The operation is the method, and rules look at path and query."""
    sent = request("POST", "Content-Length: 2", body=b"{}", target=GOOGLE)
    with between(Scripted([len(sent), OK])) as (proxy, client):
        proxy.add(TOO_MANY_REQUESTS, lambda seen: seen.query.get("name") == "other", times=None)
        proxy.add(json_error(503, "backendError"), lambda seen: seen.path.startswith("/upload/") and seen.query["name"] == "a/b")
        client.send(sent)
        answer = client.read(len(b"HTTP/1.1 503"))
        assert answer == b"HTTP/1.1 503"
        while b'"backendError"}]}}' not in answer:
            answer += client.read(1)
        client.send(sent)
        assert client.read(len(OK)) == OK
        assert [(seen.operation, seen.key, seen.status) for seen in proxy.seen()] == [("POST", "", 503), ("POST", "", 200)]


def test_what_is_not_http_fails_the_test() -> None:
    with pytest.raises(ExceptionGroup, match="the proxy failed"), between(Scripted([1])) as (_, client):
        client.send(b"hello\r\n\r\n")
        assert client.rest() == b""
