"""server/listening.py: bind once, tell what is wrong in one line, leave nothing behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tusd.errors import StartError
from tusd.server.listening import listening, urls


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_port_0_is_a_free_port_that_is_told() -> None:
    with listening("127.0.0.1:0") as sockets:
        port = sockets[0].getsockname()[1]
        assert port > 0
        assert urls(sockets, "/files/") == [f"http://127.0.0.1:{port}/files/"]
        socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_all_addresses_are_told_as_one_to_type() -> None:
    with listening("0.0.0.0:0") as sockets:
        assert urls(sockets, "/") == [f"http://127.0.0.1:{sockets[0].getsockname()[1]}/"]


def test_all_addresses_of_a_name_share_one_port() -> None:
    with listening("localhost:0") as sockets:
        assert len({listener.getsockname()[1] for listener in sockets}) == 1
        for listener in sockets:
            socket.create_connection(listener.getsockname()[:2]).close()


def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        with pytest.raises(StartError, match="cannot listen on"):
            listening("[::1]:0").__enter__()
        return
    with listening("[::1]:0") as sockets:
        assert urls(sockets, "/files/") == [f"http://[::1]:{sockets[0].getsockname()[1]}/files/"]


def test_port_in_use() -> None:
    with listening("127.0.0.1:0") as sockets:
        address = f"127.0.0.1:{sockets[0].getsockname()[1]}"
        with pytest.raises(StartError) as error, listening(address):
            pass
    assert str(error.value) == (
        f"server.listen: cannot listen on {address}: the port is in use; stop the other process or choose another port"
    )


@pytest.mark.parametrize(
    ("address", "cure"),
    [
        ("192.0.2.1:0", "this host has no such address"),
        ("unix:/nonexistent/tusd.sock", "its directory does not exist; make it first"),
        ("unix:" + "/x" * 100, "af_unix path too long"),
        ("a..b:0", "not the name of a host"),
    ],
)
def test_what_is_wrong_is_one_line(address: str, cure: str) -> None:
    with pytest.raises(StartError) as error, listening(address):
        pass
    assert str(error.value).startswith(f"server.listen: cannot listen on {address}: {cure}")
    assert "\n" not in str(error.value)


def test_unix_socket_comes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "tusd.sock"
    with listening(f"unix:{path}") as sockets:
        assert urls(sockets, "/files/") == [f"unix:{path}:/files/"]
        connect(path)
    assert not path.exists()


def test_unix_socket_of_a_killed_server_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "tusd.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with listening(f"unix:{path}"):
        connect(path)


def test_unix_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tusd.sock"
    with listening(f"unix:{path}"):
        with pytest.raises(StartError, match="another process listens on"), listening(f"unix:{path}"):
            pass
        connect(path)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(StartError, match="is not a socket; move it away"), listening(f"unix:{path}"):
        pass
    assert path.read_text() == "data"


def test_a_successor_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "tusd.sock"
    with listening(f"unix:{path}"):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.exists()
