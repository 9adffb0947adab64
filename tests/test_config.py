"""The configuration file: what is read, and what is said of what cannot be."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from tests.configs import load_config
from tusd import yaml_marks
from tusd.config import Config, PluginEntry, ServerSection, StartErrors
from tusd.errors import ConfigError
from tusd.listen import Listen
from tusd.model import Extension
from tusd.protocol.cors import Cors
from tusd.protocol.rules import Policy
from tusd.protocol.urls import Origins
from tusd.yaml_marks import Places, dotted


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def read(tmp_path: Path, text: str) -> Config:
    return load_config(write(tmp_path, text))


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    """All lines of the error, without the file's folder."""
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
    with pytest.raises(StartErrors) as caught:
        load_config(path)
    assert all(isinstance(error, ConfigError) for error in caught.value.errors)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


# --- reading


def test_without_a_file_there_are_defaults() -> None:
    config = load_config(None)
    assert config == Config()
    assert config.source == "defaults"
    assert [listen.address for listen in config.server.listen] == ["0.0.0.0:1080"]
    assert [entry.label for entry in (config.storage, config.locking)] == ["storage:file", "locking:file"]


def test_a_whole_file(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        server: {listen: "unix:/run/tusd.sock", base_path: up, workers: 4, cors: {max_age: 1h}}
        uploads: {max_size: 50GiB, expire_after: 1h30m, extensions: [creation, creation, checksum]}
        storage: {use: s3, bucket: uploads}
        limiting:
          - {use: space, total: 1}
        hooks: [{use: http}, {use: http}]
        logging: {format: json, level: WARNING}
        """,
    )
    assert config.server.listen == (Listen(address="unix:/run/tusd.sock"),)
    assert (config.server.base_path, config.server.workers) == ("/up/", 4)
    assert (config.uploads.max_size, config.uploads.expire_after) == (50 * 2**30, 5400)
    assert config.uploads.extensions == (Extension.CREATION, Extension.CHECKSUM)
    assert config.storage == PluginEntry("s3", {"bucket": "uploads"}, ("storage",), config.places)
    assert [entry.label for entry in config.hooks] == ["hooks[0]:http", "hooks[1]:http"]
    assert config.limiting[0].options == {"total": 1}
    assert (config.logging.level, config.locking.use) == ("warning", "file")
    assert (config.source, config.directory) == (str(tmp_path / "config.yaml"), tmp_path)


def test_sections_with_nothing_in_them_are_defaults(tmp_path: Path) -> None:
    defaults = Config()
    config = read(tmp_path, "server:\nstorage:\nhooks:\nplugins: []\nlogging: {}\n")
    assert (config.server, config.storage, config.hooks, config.plugins) == (defaults.server, defaults.storage, (), ())


def test_an_alias_is_what_it_names(tmp_path: Path) -> None:
    config = read(tmp_path, "hooks:\n  - &one {use: http, endpoint: x}\n  - *one\n")
    assert [entry.options for entry in config.hooks] == [{"endpoint": "x"}] * 2


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfserver: {workers: 2}\n")
    assert load_config(path).server.workers == 2


@pytest.mark.parametrize(
    ("given", "normal"), [("/", "/"), ("files", "/files/"), ("/a/b", "/a/b/"), ("/a/b/", "/a/b/"), ("//a//", "/a/")]
)
def test_base_paths_begin_and_end_with_a_slash(tmp_path: Path, given: str, normal: str) -> None:
    assert read(tmp_path, f"server: {{base_path: {given}}}").server.base_path == normal


@pytest.mark.parametrize(
    "listen",
    ["0.0.0.0:1080", "localhost:0", "[::]:65535", "[fe80::1]:80", "unix:/run/x.sock", "unix:x", "systemd", "systemd:tusd.socket"],
)
def test_addresses(tmp_path: Path, listen: str) -> None:
    assert read(tmp_path, f'server: {{listen: "{listen}"}}').server.listen == (Listen(address=listen),)


def test_hosts_networks_and_urls_are_normalised(tmp_path: Path) -> None:
    server = read(
        tmp_path,
        "server: {allowed_hosts: [UP.example.com, 'a:8080'], trusted_proxies: [10.1.2.3/8, '::1'], public_url: 'https://a/f'}",
    ).server
    assert server.allowed_hosts == ("up.example.com", "a:8080")
    assert server.trusted_proxies == ("10.0.0.0/8", "::1/128")
    assert server.public_url == "https://a/f/"


def test_auto_workers_are_as_many_as_processors(tmp_path: Path) -> None:
    assert read(tmp_path, "server: {workers: auto}").server.processes == os.cpu_count()
    assert read(tmp_path, "server: {workers: 3}").server.processes == 3


def test_what_the_protocol_gets(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        server:
          base_path: /up/
          public_url: https://a/up/
          behind_proxy: yes
          trusted_proxies: [10.0.0.0/8]
          allowed_hosts: [a]
          cors: {allow_origins: ["https://b"], allow_credentials: true, allow_methods: [X], allow_headers: [Y], expose_headers: [Z], max_age: 1h}
        uploads:
          max_size: 1kB
          expire_after: 1d
          extensions: [creation]
          downloads: no
          unfinished_downloads: yes
          max_metadata_size: 1KiB
          lock_timeout: 250ms
          concatenation_timeout: 1s
        """,
    )
    assert config.policy() == Policy(
        max_size=1000,
        extensions=frozenset({Extension.CREATION}),
        downloads=False,
        unfinished_downloads=True,
        max_metadata_size=1024,
        expire_after=86400,
        lock_timeout=0.25,
        concatenation_timeout=1,
    )
    assert config.origins() == Origins("/up/", "https://a/up/", True, ("10.0.0.0/8",), frozenset({"a"}))
    assert config.cors() == Cors(True, ("https://b",), True, ("X",), ("Y",), ("Z",), 3600)


def test_the_defaults_are_those_of_the_protocol() -> None:
    config = Config()
    assert config.policy() == Policy()
    assert config.cors() == Cors()
    assert config.origins() == Origins(trusted_proxies=config.server.trusted_proxies)
    assert config.origins().trusts(None) is False


def test_without_libyaml_all_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "server:\n  workers: ${UNSET_IN_THIS_TEST:-2}\n  run_directory: ${UNSET_IN_THIS_TEST:-}\nhooks: [{use: a}]\n"
    path = write(tmp_path, text)
    directory = tmp_path / "x"
    fast = yaml_marks.read_document(path.read_text(), "c", directory, {})
    monkeypatch.setattr(yaml_marks, "_Loader", yaml.SafeLoader)
    assert yaml_marks.read_document(path.read_text(), "c", directory, {}) == fast
    assert fast.data == {"server": {"workers": "2", "run_directory": None}, "hooks": [{"use": "a"}]}
    assert problems(tmp_path, "server: \x01\n") == ["config.yaml not valid YAML: special characters are not allowed"]


# --- interpolation


def test_what_is_interpolated_is_read_as_the_options_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "3")
    monkeypatch.setenv("YES", "true")
    monkeypatch.setenv("SIZE", "5MB")
    config = read(
        tmp_path,
        """
        server:
          workers: ${N}
          behind_proxy: ${YES}
          listen: 0.0.0.0:${PORT_IS_NOT_SET:-80}
          read_timeout: ${N}
        uploads: {max_size: "${SIZE}", expire_after: "${NOT_SET:-7d}", unfinished_downloads: "${YES}"}
        """,
    )
    assert (config.server.workers, config.server.behind_proxy, config.server.read_timeout) == (3, True, 3)
    assert config.server.listen[0].address == "0.0.0.0:80"
    assert (config.uploads.max_size, config.uploads.expire_after) == (5_000_000, 7 * 86400)


def test_an_empty_plain_value_is_not_set_and_a_quoted_one_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY", "")
    config = read(
        tmp_path,
        """
        uploads:
          max_size: ${EMPTY}
        storage:
          use: x
          a: ${EMPTY}
          b: "${EMPTY}"
          c: ${EMPTY:-d}
        """,
    )
    assert config.uploads.max_size is None
    assert config.storage.options == {"a": None, "b": "", "c": "d"}


def test_what_was_interpolated_is_text_and_never_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITS", "0123")
    monkeypatch.setenv("EVIL", "x}, locking: {use: y # ${DIGITS}")
    config = read(tmp_path, "storage:\n  use: x\n  password: ${DIGITS}\n  name: ${EVIL}\n  both: a${DIGITS}b$DIGITS\n")
    assert config.storage.options == {
        "password": "0123",
        "name": "x}, locking: {use: y # ${DIGITS}",
        "both": "a0123b$DIGITS",
    }


def test_two_dollars_are_one(tmp_path: Path) -> None:
    assert read(tmp_path, 'storage: {use: x, a: "$${HOME} $$ ${UNSET_HERE:-}"}').storage.options == {"a": "${HOME} $$ "}


def test_secrets_come_from_files_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    options = read(tmp_path, f"storage: {{use: x, a: '${{file:secret}}', b: '${{file:{tmp_path}/secret}}'}}").storage.options
    assert options == {"a": "hunter2", "b": "hunter2"}


def test_values_that_cannot_be_had_are_errors_in_their_place(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert problems(
        tmp_path,
        """\
        server:
          workers: ${UNSET_IN_THIS_TEST}
          listen: "${file:nothing}"
          base_path: "${file:binary}"
        storage:
          use: x
          a: ${UNSET-IN-THIS-TEST}
          b: ${UNSET
          c: [1, "${}"]
        """,
    ) == [
        "config.yaml:2:12 server.workers: the environment variable UNSET_IN_THIS_TEST is not set; "
        "set it, or write ${UNSET_IN_THIS_TEST:-default}",
        "config.yaml:3:11 server.listen: cannot read the file nothing: No such file or directory",
        "config.yaml:4:14 server.base_path: the file binary is not UTF-8 text",
        "config.yaml:7:6 storage.a: cannot be understood; write ${VAR}, ${VAR:-default}, ${file:path}, or $${ for a literal ${",
        "config.yaml:8:6 storage.b: ${ without its }; write $${ for a literal ${",
        "config.yaml:9:10 storage.c[1]: cannot be understood; write ${VAR}, ${VAR:-default}, ${file:path}, or $${ for a literal ${",
    ]


# --- files that are no configuration


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StartErrors, match=r"nothing\.yaml cannot be read: No such file or directory"):
        load_config(tmp_path / "nothing.yaml")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "config.yaml the file is empty; see config.example.yaml, or start without a file for the defaults"),
        ("# only a comment\n", "config.yaml the file is empty; see"),
        ("- server\n", "config.yaml the file must be a mapping of sections; see"),
        ("server\n", "config.yaml the file must be a mapping of sections; see"),
        ("server:\n\tworkers: 1\n", "config.yaml:2:1 not valid YAML: a tab cannot indent; use spaces"),
        ("server: [\n", "config.yaml:2:1 not valid YAML: "),
        ("server: {}\n---\nserver: {}\n", "config.yaml:2:1 not valid YAML: but found another document"),
        ("server: *nobody\n", "config.yaml:1:9 not valid YAML: found undefined alias"),
        (b"server: {}\nname: \xe4\n", "config.yaml:2 is not UTF-8 text; save the file as UTF-8"),
        ("server: \x01\n", "config.yaml not valid YAML: control characters are not allowed"),
        (BOMB, "not valid YAML: too many values; does an alias contain itself, or aliases of aliases?"),
        ("hooks: &a [*a]\n", "config.yaml:1:8 not valid YAML: too many values; does an alias contain itself"),
        ("hooks: " + "[" * 500, "config.yaml:1:37 not valid YAML: nested too deeply"),
        ("hooks: " + "[" * 100_000, "nest"),  # libyaml has a limit of its own in some versions
        (
            "server: {workers: 1}\nserver: {workers: 2}\n",
            "config.yaml:2:1 server: given twice, first in line 1; keep one of them",
        ),
        ("storage:\n  use: x\n  use: y\n", "config.yaml:3:3 storage.use: given twice, first in line 2; keep one of them"),
        ("? [a, b]\n: 1\n", "config.yaml:1:3 a key must be a plain word"),
        ("a: &x {b: 1}\nserver:\n  <<: *x\n", "config.yaml:3:3 server: merging by << is not supported; write the options out"),
        ("server: {workers: ${N}}\n", "(between { } a ${...} has to be in quotes)"),
        ("storage: !custom x\n", "config.yaml:1:10 storage: the tag !custom is not supported; leave it out"),
        ("storage: !!int x\n", "config.yaml:1:10 storage: not a valid int; put text in quotes"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert any(line.startswith(expected) or expected in line for line in problems(tmp_path, text))


# --- options that are wrong


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sever: {}", '1:1 sever: unknown section (did you mean "server"?)'),
        ("server: {lisen: x}", '1:10 server.lisen: unknown option (did you mean "listen"?)'),
        (
            "server:\n  cors:\n    alow_origins: []",
            '3:5 server.cors.alow_origins: unknown option (did you mean "allow_origins"?)',
        ),
        ("logging: {qqq: 1}", "1:11 logging.qqq: unknown option; the options here are format, level, requests, full_upload_ids"),
        ("server: [1]", "1:1 server: must be a mapping of options"),
        ("server: x", "1:1 server: must be a mapping of options"),
        ("server: {cors: x}", "1:10 server.cors: must be a mapping of options"),
        ("server: {allowed_hosts: x}", "1:10 server.allowed_hosts: must be a list"),
        ('server: {run_directory: "a\\0b"}', "1:25 server.run_directory: holds a NUL character; leave it out"),
        ('server: {listen: "unix:/a\\0b"}', "1:18 server.listen: holds a NUL character; leave it out"),
        ('storage: {use: file, directory: "\\0"}', "1:33 storage.directory: holds a NUL character; leave it out"),
        ('server: {run_directory: "${file:a\\0b}"}', "1:25 server.run_directory: holds a NUL character; leave it out"),
        ("server: {workers: 0}", "1:10 server.workers: not a number of processes; write 1, 2, 3 ... or auto"),
        ("server: {workers: many}", "1:10 server.workers: not a number of processes; write 1, 2, 3 ... or auto"),
        ("server: {workers: true}", "1:10 server.workers: not a number of processes; write 1, 2, 3 ... or auto"),
        ("server: {listen: 1080}", "1:10 server.listen: not an address; write 0.0.0.0:1080"),
        (
            "server: {listen: ':1080'}",
            "1:10 server.listen: not an address; write 0.0.0.0:1080, [::]:1080, unix:/run/tusd.sock, or systemd",
        ),
        ("server: {listen: [a:1, b]}", "1:24 server.listen[1]: not an address; write"),
        ("server: {listen: []}", "1:10 server.listen: names no listener; write 0.0.0.0:1080"),
        ("server: {listen: [a:1, a:1]}", "1:10 server.listen: names a:1 twice; keep one of them"),
        ("server: {listen: a:1, admin_listen: a:1}", "1:23 server.admin_listen: a:1 is named by server.listen, too; choose"),
        ("server: {listen: {address: a:1, mod: 1}}", '1:33 server.listen.mod: unknown option (did you mean "mode"?)'),
        ("server: {listen: {mode: '0660'}}", "1:10 server.listen.address: missing"),
        ("server: {listen: {address: a:1, mode: '0660'}}", "1:33 server.listen.mode: is for unix: sockets only; leave it out"),
        ("server: {listen: [{address: systemd, group: www}]}", "1:38 server.listen[0].group: is for unix: sockets only"),
        ("server: {listen: {address: a:1, tls: {key: k}}}", "1:33 server.listen.tls.certificate: missing"),
        (
            "server: {admin_listen: {address: a:1, tls: {certificate: c, key: k, mode: ssl3}}}",
            "1:69 server.admin_listen.tls.mode: should be",
        ),
        ("server: {listen: 'a:70000'}", "1:10 server.listen: a port is at most 65535"),
        ("server: {listen: 'unix:///run/t.sock'}", "1:10 server.listen: not an address; write"),
        ("server: {cors: {allow_origins: '*'}}", "1:17 server.cors.allow_origins: must be a list of regular expressions"),
        ("server: {cors: {allow_origins: ['*']}}", "1:33 server.cors.allow_origins[0]: not a regular expression: nothing"),
        ("uploads: {max_size: 0}", "1:11 uploads.max_size: 0 would refuse every upload; leave it out for no limit"),
        (
            "protocol: {max_append_size: 5MiB, min_append_size: 6MiB}",
            "1:35 protocol.min_append_size: more than protocol.max_append_size, 5242880 bytes: no request could be both",
        ),
        ("uploads: {expire_after: 0s}", "1:11 uploads.expire_after: 0 would refuse every upload"),
        ("server: {listen: '::1:80'}", "1:10 server.listen: not an address; write"),
        ("server: {base_path: 'a b'}", "1:10 server.base_path: not a path; write letters"),
        ("server: {base_path: /a/../b}", "1:10 server.base_path: not a path; write letters"),
        ("server: {public_url: up.example.com}", "1:10 server.public_url: not the base of URLs; write https://"),
        ("server: {public_url: 'https://a/?b'}", "1:10 server.public_url: not the base of URLs; write https://"),
        ("server: {public_url: 'https://me:pw@a/'}", "1:10 server.public_url: not the base of URLs; write https://"),
        ("server: {public_url: 'https://ü.example/'}", "1:10 server.public_url: not the base of URLs; write https://"),
        ("server: {public_url: 'https://a:b/'}", "1:10 server.public_url: not the base of URLs; write https://"),
        ("server: {trusted_proxies: [10.0.0.0/8, proxy]}", "1:40 server.trusted_proxies[1]: not a network; write 10.0.0.0/8"),
        ("server: {allowed_hosts: ['https://a']}", "1:26 server.allowed_hosts[0]: not a host; write up.example.com"),
        ("server: {read_timeout: 0}", "1:10 server.read_timeout: should be greater than 0"),
        ("server: {read_timeout: 5 parsecs}", "1:10 server.read_timeout: not a duration; write 30s, 250ms, 1h30m, 7d"),
        ("server: {keepalive_timeout: -1}", "1:10 server.keepalive_timeout: should be greater than or equal to 0"),
        ("server: {max_header_size: 10}", "1:10 server.max_header_size: should be greater than or equal to 1024"),
        ("server: {min_transfer_rate: 0}", "1:10 server.min_transfer_rate: 0 is no limit; leave it out instead"),
        ("server: {max_connections: 0}", "1:10 server.max_connections: should be greater than or equal to 1"),
        ("server: {max_headers: 5}", "1:10 server.max_headers: should be greater than or equal to 32"),
        ("server: {max_head_size: 1}", "1:10 server.max_head_size: should be greater than or equal to 4096"),
        ("server: {header_timeout: 0}", "1:10 server.header_timeout: should be greater than 0"),
        ("server: {write_timeout: 0}", "1:10 server.write_timeout: should be greater than 0"),
        ("server: {loop: trio}", "1:10 server.loop: should be 'auto', 'uvloop' or 'asyncio'"),
        ("server: {cors: {allow_origins: ['(']}}", "1:33 server.cors.allow_origins[0]: not a regular expression: missing )"),
        ("server: {cors: {allow_headers: ['a b']}}", "1:33 server.cors.allow_headers[0]: not the name of a header or method"),
        ("uploads: {max_size: lots}", "1:11 uploads.max_size: not a size; write a number of bytes, or 512KiB, 5MB, 50GiB"),
        ("uploads: {extensions: [creatoin]}", "1:24 uploads.extensions[0]: should be 'creation', 'creation-with-upload', "),
        ("logging: {level: loud}", "1:11 logging.level: should be 'debug', 'info', 'warning' or 'error'"),
        ("storage: file", "1:1 storage: must be a mapping; write `use: name` and the plugin's options"),
        ("storage: {directory: x}", "1:1 storage.use: missing; name the plugin, such as `use: file`"),
        ("storage: {use: 7}", "1:11 storage.use: must be the name of a plugin"),
        ("hooks: {use: http}", "1:1 hooks: must be a list; begin each plugin with `- use: name`"),
        ("hooks: [http]", "1:9 hooks[0]: must be a mapping; write `use: name` and the plugin's options"),
        ("hooks:\n  - endpoint: x", "2:5 hooks[0].use: missing; name the plugin, such as `use: file`"),
    ],
)
def test_a_wrong_option(tmp_path: Path, text: str, expected: str) -> None:
    (line,) = problems(tmp_path, text)
    assert line.startswith(f"config.yaml:{expected}")


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    text = "server: {workers: 0, lisen: 1}\nuploads: {max_size: x}\nstorage: 5\nhoks: []\nlogging: {level: x, level: y}\n"
    assert [line.split()[1] for line in problems(tmp_path, text)] == [
        "logging.level:",
        "hoks:",
        "server.workers:",
        "server.lisen:",
        "uploads.max_size:",
        "storage:",
    ]


def test_values_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    names = ("workers", "listen", "loop", "public_url")
    text = "server:\n" + "".join(f"  {name}: ${{SECRET}}\n" for name in names) + "uploads:\n  max_size: ${SECRET}\n"
    lines = problems(tmp_path, text)
    assert len(lines) == 5 and "hunter2" not in "".join(lines)


def test_places_fall_back_to_what_is_around() -> None:
    places = Places("c.yaml", {("hooks",): (1, 1), ("hooks", 0): (2, 5)})
    assert places.where(("hooks", 0, "a", "b")) == "c.yaml:2:5"
    assert places.where(("storage",)) == "c.yaml"
    assert dotted(("hooks", 1, "a", 2, "b")) == "hooks[1].a[2].b"


@pytest.mark.parametrize("mode", ["664", "775", "1000", "'9'", "'rw'", "true"])
def test_permissions_that_are_none(tmp_path: Path, mode: str) -> None:
    """664 without quotes is a decimal number in YAML: permissions of another kind than meant."""
    from tusd.builtin.file_storage import FileStorage

    with pytest.raises(ValidationError):
        FileStorage.Options.model_validate({"file_mode": yaml.safe_load(mode)})


@pytest.mark.parametrize(("mode", "bits"), [("'0664'", 0o664), ("0664", 0o664), ("'700'", 0o700), ("'0o600'", 0o600)])
def test_permissions(mode: str, bits: int) -> None:
    from tusd.builtin.file_storage import FileStorage

    assert FileStorage.Options.model_validate({"file_mode": yaml.safe_load(mode)}).file_mode == bits


def test_connections_are_shared_out_over_the_workers() -> None:
    assert ServerSection().connections_each is None
    assert ServerSection(max_connections=10).connections_each == 10
    assert ServerSection(max_connections=10, workers=4).connections_each == 3
