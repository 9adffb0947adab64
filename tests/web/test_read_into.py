"""Bodies that stores read into memory: all that holds for those that go to files holds for them, too.

The tests of bodies on both paths run again, with a store that fills a buffer instead: `write_to` is what it uses."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.server.certificates import make_pair

from tusd.engine.body import AppendBody
from tusd.errors import UnexpectedEof

from .conftest import Serve
from .raw import patch, post
from .serving import Served
from .test_connections import (  # noqa: F401
    test_a_client_that_does_not_wait_for_continue,
    test_a_client_that_sends_all_and_vanishes,
    test_a_client_that_vanishes_in_mid_body,
    test_a_connection_is_used_again,
    test_a_slow_body_does_not_time_out,
    test_a_stalled_body_times_out_and_its_bytes_are_kept,
    test_a_unix_socket,
    test_a_whole_request_and_then_half_closed,
    test_continue_comes_when_offset_and_lock_are_good,
    test_continue_of_a_chunked_body,
    test_half_closed_in_mid_body,
    test_http_1_0,
    test_no_file_stays_open_whatever_clients_do,
    test_uploads_at_once_do_not_mix,
)
from .test_embedded import (  # noqa: F401
    outer,
    run,
    test_a_client_that_vanishes,
    test_a_request_for_the_same_upload_interrupts,
    test_bodies_that_are_chunked_or_pipelined,
    test_continue_is_sent_once_and_only_for_what_is_taken,
    test_whole_uploads_on_one_connection,
)
from .test_handover import (  # noqa: F401
    test_a_body_that_has_arrived_whole_is_not_interrupted,
    test_a_body_with_a_checksum_is_dropped_as_a_whole,
    test_a_client_that_goes_on_sending_can_read_why,
    test_a_stalled_chunked_body,
    test_delete_interrupts_a_stalled_body,
    test_patch_interrupts_a_stalled_body,
)
from .test_limits import (  # noqa: F401
    test_a_body_that_is_asked_for_and_never_comes,
    test_a_body_that_is_just_fast_enough_is_taken,
    test_a_body_that_is_stopped_by_a_limiter_does_not_time_out,
    test_a_body_that_trickles_in_times_out_and_its_bytes_are_kept,
    test_a_stalled_body_times_out_behind_a_limiter,
)
from .test_pipelining import (  # noqa: F401
    test_a_body_that_is_too_long_for_the_upload,
    test_a_body_that_waits_for_the_lock,
    test_a_body_that_was_stopped_and_came_to_its_end_is_not_waited_for,
    test_a_chunked_body_that_is_too_long,
    test_a_large_body_cut_anywhere,
    test_a_large_body_in_small_pieces_then_a_request_in_the_last,
    test_chunked_bodies,
    test_many_requests_behind_one_whose_body_came_late,
    test_one_byte_at_a_time,
    test_requests_behind_a_body_in_the_same_stream,
    test_wrong_chunks,
)

Written = Callable[[int], None] | None
BUFFER = 400_000
"""Less than a large body, so that the connection is lent more than once, and more than what makes that worth while."""


async def gather(body: AppendBody, fd: int, offset: int, written: Written = None) -> int:
    """Writes what has come into a buffer as soon as it is there. In the end nobody may hold the buffer."""
    buffer, at, more = bytearray(BUFFER), offset, True
    while more:
        begin, first = 0, at

        def filled(n: int) -> None:
            nonlocal begin, at
            assert os.pwrite(fd, memoryview(buffer)[begin : begin + n], at) == n
            begin, at = begin + n, at + n

        more = await body.read_into(memoryview(buffer), filled)
        assert not more or at > first
        if not isinstance(body.failure, UnexpectedEof):  # its traceback may keep a view, which nobody will use
            buffer.append(0)  # raises BufferError when the transport keeps one
            buffer.pop()
    return at - offset


@pytest.fixture(autouse=True)
def gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AppendBody, "write_to", gather)


def test_a_reading_that_is_cancelled_gives_the_connection_back(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The buffer stays as it is, and what comes next goes on behind what came."""
    data = os.urandom(3_000_000)
    part, cancelled, more_came = 700_000, threading.Event(), threading.Event()

    async def cancelling(body: AppendBody, fd: int, offset: int, written: Written = None) -> int:
        buffer, came = bytearray(1 << 20), 0

        def filled(n: int) -> None:
            nonlocal came
            came += n

        reading = asyncio.create_task(body.read_into(memoryview(buffer), filled))
        async with asyncio.timeout(10):
            while came < part:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled() and came == part and buffer[:came] == data[:came]
        cancelled.set()
        await asyncio.to_thread(more_came.wait, 10)
        assert buffer[came:] == bytes(len(buffer) - came)
        os.pwrite(fd, buffer[:came], offset)
        return came + await gather(body, fd, offset + came)

    monkeypatch.setattr(AppendBody, "write_to", cancelling)
    path = server.create(len(data))
    with server.connect() as connection:
        connection.send(patch(path, 0, data[:part], announce=len(data)))
        assert cancelled.wait(10)
        connection.send(data[part : part + 1000])
        more_came.set()
        connection.send(data[part + 1000 :])
        answer = connection.answer()
        assert (answer.status, answer["Upload-Offset"]) == (204, str(len(data)))
    assert server.stored(path) == data


def test_both_ways_of_reading_may_follow_each_other(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a byte more than what was granted is looked for: the HTTP parser learns then what went past it."""
    data = os.urandom(3_000_000)

    async def mixed(body: AppendBody, fd: int, offset: int, written: Written = None) -> int:
        buffer, source = bytearray(1 << 20), body._source
        for size in (1 << 20, 1):
            assert await body.read_into(memoryview(buffer)[:size], lambda n: None)
            os.pwrite(fd, buffer[:size], offset)
            offset += size
        piece = await source.read()
        assert piece
        body._seen(piece)
        os.pwrite(fd, piece, offset)
        return await gather(body, fd, offset + len(piece))

    monkeypatch.setattr(AppendBody, "write_to", mixed)
    path = server.create(len(data))
    with server.connect() as connection:
        assert connection.ask(patch(path, 0, data)).status == 204
        assert connection.ask(patch(path, 5, b"x")).status == 409
    assert server.stored(path) == data


def test_tls(serve: Serve, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "gathering")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    server, data = serve(tls=tls), os.urandom(3_000_000)
    with socket.create_connection(("127.0.0.1", server.address[1]), timeout=10) as plain:
        with pair.client().wrap_socket(plain, server_hostname="127.0.0.1") as client:
            client.sendall(post({"Upload-Length": len(data)}, data))
            location = re.search(rb"Location: \S*/(\w+)", client.recv(4096))
    assert location is not None
    assert server.stored(location[1].decode()) == data
