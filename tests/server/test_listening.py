"""server/listening.py: bind once, tell what is wrong in one line, leave nothing behind."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tusd.config import Config, ServerSection, StartErrors
from tusd.server.listening import Sockets, places, urls
from tusd.server.systemd import Inherited
from tusd.web.app import Listener


def config(*listen: object, admin: object = None) -> Config:
    return Config(server=ServerSection.model_validate({"listen": list(listen), "admin_listen": admin}))


def all_of(sockets: Sockets, what: Config) -> list[socket.socket]:
    return [sock for place in places(what) for sock in sockets.of(place, what)]


@contextmanager
def listening(listen: object) -> Iterator[list[socket.socket]]:
    """The sockets of one listener, as long as the block runs."""
    sockets, wanted = Sockets(Inherited({})), config(listen)
    try:
        sockets.bind(wanted)
        yield all_of(sockets, wanted)
    finally:
        sockets.close()


def where(sockets: list[socket.socket], base_path: str) -> list[str]:
    return urls([Listener(sock) for sock in sockets], base_path)


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_port_0_is_a_free_port_that_is_told() -> None:
    with listening("127.0.0.1:0") as sockets:
        port = sockets[0].getsockname()[1]
        assert port > 0
        assert where(sockets, "/files/") == [f"http://127.0.0.1:{port}/files/"]
        socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_all_addresses_are_told_as_one_to_type() -> None:
    with listening("0.0.0.0:0") as sockets:
        assert where(sockets, "/") == [f"http://127.0.0.1:{sockets[0].getsockname()[1]}/"]


def test_all_addresses_of_a_name_share_one_port() -> None:
    with listening("localhost:0") as sockets:
        assert len({listener.getsockname()[1] for listener in sockets}) == 1
        for listener in sockets:
            socket.create_connection(listener.getsockname()[:2]).close()


def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        with pytest.raises(StartErrors, match="cannot listen on"):
            listening("[::1]:0").__enter__()
        return
    with listening("[::1]:0") as sockets:
        assert where(sockets, "/files/") == [f"http://[::1]:{sockets[0].getsockname()[1]}/files/"]


def test_port_in_use() -> None:
    with listening("127.0.0.1:0") as sockets:
        address = f"127.0.0.1:{sockets[0].getsockname()[1]}"
        with pytest.raises(StartErrors) as error, listening(address):
            pass
    assert str(error.value) == (
        f"defaults server.listen: cannot listen on {address}: the port is in use; stop the other process or choose another port"
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
    with pytest.raises(StartErrors) as error, listening(address):
        pass
    assert str(error.value).startswith(f"defaults server.listen: cannot listen on {address}: {cure}")
    assert "\n" not in str(error.value)


def test_unix_socket_comes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "tusd.sock"
    with listening(f"unix:{path}") as sockets:
        assert where(sockets, "/files/") == [f"unix:{path}:/files/"]
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
        with pytest.raises(StartErrors, match="another process listens on"), listening(f"unix:{path}"):
            pass
        connect(path)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(StartErrors, match="is not a socket; move it away"), listening(f"unix:{path}"):
        pass
    assert path.read_text() == "data"


def test_a_successor_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "tusd.sock"
    with listening(f"unix:{path}"):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.exists()


def test_a_socket_gets_its_rights(tmp_path: Path) -> None:
    path, group = tmp_path / "tusd.sock", grp.getgrgid(os.getgid()).gr_name
    user = pwd.getpwuid(os.getuid()).pw_name
    with listening({"address": f"unix:{path}", "mode": "0620", "owner": user, "group": group}):
        found = path.stat()
        assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o620, os.getuid(), os.getgid())
        connect(path)


@pytest.mark.parametrize(
    ("rights", "what"),
    [
        ({"owner": "nobody-has-this-name"}, 'there is no user "nobody-has-this-name" on this host'),
        ({"group": "nobody-has-this-name"}, 'there is no group "nobody-has-this-name" on this host'),
    ],
)
def test_rights_that_cannot_be_given(tmp_path: Path, rights: dict[str, str], what: str) -> None:
    path = tmp_path / "tusd.sock"
    with pytest.raises(StartErrors, match=what), listening({"address": f"unix:{path}", **rights}):
        pass
    assert not path.exists()


def test_a_file_that_is_not_ours_to_give_away() -> None:
    """In a process without the right to give files away, whoever runs the tests."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        program = f"""
import os
from tests.server.test_listening import listening
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
with listening({{"address": "unix:{folder}/s", "owner": "root"}}):
    pass
"""
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
        assert not os.listdir(folder)
    assert "its file cannot be given to user root: operation not permitted; only root may give files away" in result.stderr


def test_what_stays_is_kept_what_is_new_is_opened_what_is_gone_is_closed(tmp_path: Path) -> None:
    sockets = Sockets(Inherited({}))
    one, two, three = "127.0.0.1:0", f"unix:{tmp_path}/two", f"unix:{tmp_path}/three"
    old, new = config(one, two), config(three, one)
    sockets.bind(old)
    kept, gone = all_of(sockets, old)
    sockets.bind(new)
    assert [sock.getsockname() for sock in all_of(sockets, new)] == [str(tmp_path / "three"), kept.getsockname()]
    assert all_of(sockets, new)[1] is kept
    connect(tmp_path / "two")  # until the new ones serve
    sockets.keep(new)
    assert gone.fileno() == -1
    assert not (tmp_path / "two").exists()
    connect(tmp_path / "three")
    sockets.close()
    assert not (tmp_path / "three").exists()


def test_when_one_cannot_be_opened_none_is(tmp_path: Path) -> None:
    sockets, old = Sockets(Inherited({})), config("127.0.0.1:0")
    sockets.bind(old)
    with pytest.raises(StartErrors) as caught:
        sockets.bind(config("127.0.0.1:0", f"unix:{tmp_path}/good", f"unix:{tmp_path}/not/there", "192.0.2.1:0"))
    assert [str(error).rpartition(": ")[2] for error in caught.value.errors] == [
        "its directory does not exist; make it first",
        "this host has no such address",
    ]
    assert not (tmp_path / "good").exists()
    assert all_of(sockets, old)[0].fileno() != -1
    sockets.close()


def test_changed_rights_are_given_to_a_socket_that_stays(tmp_path: Path) -> None:
    sockets, address = Sockets(Inherited({})), f"unix:{tmp_path}/s"
    sockets.bind(config({"address": address, "mode": "0600"}))
    sockets.bind(config({"address": address, "mode": "0666"}))
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o666
    sockets.close()


def test_listeners_for_operators_are_told_apart() -> None:
    wanted = config("127.0.0.1:0", admin="127.0.0.1:0")
    sockets = Sockets(Inherited({}))
    sockets.bind(wanted)
    public, admin = places(wanted)
    assert (public.admin, admin.admin) == (False, True)
    assert sockets.of(public, wanted)[0].getsockname() != sockets.of(admin, wanted)[0].getsockname()
    assert replace(admin, admin=False).key == public.key
    sockets.close()


def test_systemd_without_sockets_is_told() -> None:
    with pytest.raises(StartErrors, match="no sockets were handed over") as caught, listening("systemd"):
        pass
    assert "start it by its .socket unit, or write host:port" in str(caught.value)
