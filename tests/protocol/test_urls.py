"""Upload URLs, upload ids, and what proxies say."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.heads import ID, head

from tusd.errors import InvalidConcat, InvalidId, InvalidRequest, UploadNotFound
from tusd.model import UploadId
from tusd.protocol.urls import Origins, checked_id

ALLOWED = "ABCXYZabcxyz0189-._~!$'()*+,;=:@"
SEGMENTS = st.text(st.sampled_from(ALLOWED), min_size=1, max_size=12).filter(
    lambda s: s[0] not in ".~" and not s.lower().endswith((".info", ".part", ".lock", ".tmp"))
)
IDS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)
HOSTILE = [
    "..", ".", "../x", "x/..", "x/../y", "/x", "x/", "x//y", "//", "/", "", ".x", "x/.y", "~x", "x/~y", "~sweeper",
    "x.info", "x.part", "x.lock", "x.tmp", "x.INFO", "x.Lock", "y/x.info", "x.info/y", ".info",
    "x\0", "x\n", "x\r\ny", " x", "x y", "x\ty", "x\x7f", "x\\y", "..\\x", "x%2fy", "%2e%2e", "%", "x?y", "x#y", "x|y", "x<y>", 'x"y', "x&y",
    "é", "Ａ", "٣", "x\u200b", "\ud800", "x\udcff", "a" * 241, "a/" + "b" * 241, "/".join(["a" * 99] * 10),
]  # fmt: skip


# --- ids


@given(IDS)
def test_ids(text: str) -> None:
    assert checked_id(text) == text


@pytest.mark.parametrize(
    "text", ["a", "a" * 240, "a/b", "a.b", "a..b", "a~", "a.", "infos", "a.infos", "S3key+multipart", "x/.@".replace(".@", "@")]
)
def test_good_ids(text: str) -> None:
    assert checked_id(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_ids(text: str) -> None:
    with pytest.raises(InvalidId):
        checked_id(text)


@given(st.text())
def test_an_id_never_leaves_its_folder(text: str) -> None:
    try:
        found = checked_id(text)
    except InvalidId:
        return
    assert found.isascii() and found.isprintable() and "\\" not in found and "%" not in found
    assert all(part and part[0] not in ".~" for part in found.split("/"))


# --- paths


@pytest.mark.parametrize("base", ["/files/", "/", "/a/b/"])
@given(upload_id=IDS)
def test_urls_round_trip(base: str, upload_id: str) -> None:
    origins = Origins(base_path=base)
    url = origins.upload_url(head("POST", base), UploadId(upload_id))
    assert url.startswith(f"http://up.example{base}")
    path = url.removeprefix("http://up.example")
    assert origins.holds(path)
    for form in (path, path + "/", base + quote(upload_id, safe=""), base + "".join(f"%{ord(c):02x}" for c in upload_id)):
        assert origins.upload_id(form) == upload_id
    assert origins.part_id(url) == origins.part_id(path) == origins.part_id("./" + path.removeprefix(base)) == upload_id


@pytest.mark.parametrize(
    ("base", "path", "held"),
    [
        ("/files/", "/files/", True),
        ("/files/", "/files", True),
        ("/files/", "/files/x", True),
        ("/files/", "/filesx", False),
        ("/files/", "/FILES/", False),
        ("/files/", "/", False),
        ("/files/", "*", False),
        ("/files/", "/x/files/", False),
        ("/files/", "/%66iles/x", False),
        ("/", "/", True),
        ("/", "/x", True),
        ("/", "*", False),
    ],
)
def test_holds(base: str, path: str, held: bool) -> None:
    assert Origins(base_path=base).holds(path) is held


@pytest.mark.parametrize("path", ["/files/", "/files", "/files//"])
def test_the_base_itself(path: str) -> None:
    assert Origins().upload_id(path) is None


@pytest.mark.parametrize(
    "text", [text for text in HOSTILE if text not in ("", "/", "x/", "%2e%2e", "x%2fy") and text.isprintable()]
)
def test_hostile_paths(text: str) -> None:
    for form in (text, quote(text, safe="")):
        with pytest.raises(UploadNotFound):
            Origins().upload_id("/files/" + form)


@pytest.mark.parametrize(
    "rest",
    ["%2e%2e", "%2E%2E%2Fetc", "..%2fx", "%2e%2e%5cx", "x%2f%2e%2e%2fy", "x%2F..", "x%00", "x%0d%0a", "x%20y", "x%5cy", "%252e%252e",
     "x%2f%2fy", "%2fx", "%7esweeper", "x%2einfo", "x%2eINFO", "%c0%ae%c0%ae", "%c0%afx", "%e0%80%ae", "%ff", "%c3%a9", "x%", "x%z", "x%2",
     "\udcff%41", "\udcff", "é%41", "\ud800%41", "x//", "//x", "x/./y", "x/%2e/y"],
)  # fmt: skip
def test_hostile_encodings(rest: str) -> None:
    with pytest.raises(UploadNotFound):
        Origins().upload_id("/files/" + rest)


@given(
    st.one_of(
        st.text(), st.lists(st.sampled_from(["%2e", "%2f", "..", "/", "a", "%", "%5c", "%00", "\udc80", "%61"])).map("".join)
    )
)
def test_any_path_is_an_upload_or_not_found(rest: str) -> None:
    try:
        found = Origins().upload_id("/files/" + rest)
    except UploadNotFound:
        return
    assert found is None or checked_id(found) == found


def test_encoded_slashes_are_slashes() -> None:
    assert Origins().upload_id("/files/a%2Fb%2fc") == "a/b/c"


# --- parts


@pytest.mark.parametrize(
    "url",
    ["/files/abc", "http://up.example/files/abc", "https://elsewhere.test:8443/files/abc", "//proxy/files/abc", "/files/abc/", "abc", "./abc",
     "/files/%61bc", "/files/abc?x=1#y", "https://cdn.test/up/abc", "/up/abc"],
)  # fmt: skip
def test_parts(url: str) -> None:
    assert Origins(public_url="https://cdn.test/up").part_id(url) == "abc"


@pytest.mark.parametrize(
    "url",
    ["/files/", "/files", "/", "", "/other/abc", "http://up.example/", "http://up.example/other/files/abc",
     "/filesabc", "http://[::1/files/abc", "mailto:abc@x", "http:abc@", "?x", "#x",
     "/files/\udcff%41", "http://up.ex\u00e4mple/files/abc", "http://a\u0300\u0316/files/abc"],
)  # fmt: skip
def test_not_our_parts(url: str) -> None:
    with pytest.raises(InvalidConcat, match="not an upload of this server"):
        Origins(public_url="https://cdn.test/up").part_id(url)


@pytest.mark.parametrize(
    "rest", ["%2e%2e/abc", "..%2fabc", "x%2f..%2fabc", "abc.info", "~sweeper", "%00", "x//y", "x/../abc", "../abc"]
)
def test_hostile_parts(rest: str) -> None:
    with pytest.raises(UploadNotFound):
        Origins().part_id("/files/" + rest)


@given(st.text())
def test_any_part_is_an_upload_or_refused(url: str) -> None:
    try:
        found = Origins().part_id(url)
    except (InvalidConcat, UploadNotFound):
        return
    assert checked_id(found) == found


# --- where clients see the server


@pytest.mark.parametrize(
    ("scheme", "host", "base"),
    [
        ("http", "up.example", "http://up.example/files/"),
        ("https", "up.example", "https://up.example/files/"),
        ("http", "up.example:80", "http://up.example/files/"),
        ("https", "up.example:443", "https://up.example/files/"),
        ("http", "up.example:443", "http://up.example:443/files/"),
        ("https", "up.example:80", "https://up.example:80/files/"),
        ("http", "127.0.0.1:1080", "http://127.0.0.1:1080/files/"),
        ("http", "[::1]:1080", "http://[::1]:1080/files/"),
        ("https", "[2001:db8::1]:443", "https://[2001:db8::1]/files/"),
        ("http", "my_host", "http://my_host/files/"),
    ],
)
def test_base_url(scheme: str, host: str, base: str) -> None:
    request = head("POST", headers={"Host": host}, scheme=scheme)
    assert Origins().base_url(request) == base
    assert Origins().upload_url(request, ID) == base + ID


@pytest.mark.parametrize(
    "host",
    ["", " ", "a b", "a/b", "a@b", "user:pw@a", "a?b", "a#b", "a:b", "a:", "a:123456", "::1", "[::1", "a\r\nX: y", "é", "a\udcff", "a,b", "[x]",
     "a\n", "%61", '"', "<script>", "٣"],
)  # fmt: skip
def test_bad_hosts(host: str) -> None:
    with pytest.raises(InvalidRequest, match="Host header is not valid"):
        Origins().base_url(head("POST", headers={"Host": host}))


def test_without_a_host_the_path_is_told() -> None:
    request = head("POST")
    del request.headers["Host"]  # type: ignore[attr-defined]
    assert Origins().base_url(request) == "/files/"
    assert Origins(public_url="https://cdn.test/up/").base_url(request) == "https://cdn.test/up/"


@pytest.mark.parametrize("public", ["https://cdn.test/up", "https://cdn.test/up/"])
def test_public_url_wins(public: str) -> None:
    origins = Origins(public_url=public, behind_proxy=True, trusted_proxies=("0.0.0.0/0",))
    request = head("POST", headers={"Host": "e vil", "X-Forwarded-Host": "evil", "Forwarded": "host=evil"})
    assert origins.base_url(request) == "https://cdn.test/up/"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("up.example", True),
        ("UP.example", True),
        ("up.example:1080", True),
        ("other.example:8080", True),
        ("OTHER.example:8080", True),
        ("other.example", False),
        ("other.example:80", False),
        ("evil.up.example", False),
        ("up.example.evil", False),
        ("[::1]:9", True),
        ("[::2]", False),
    ],
)
def test_allowed_hosts(host: str, allowed: bool) -> None:
    origins = Origins(allowed_hosts=frozenset({"up.example", "other.example:8080", "[::1]"}))
    request = head("POST", headers={"Host": host})
    if allowed:
        assert origins.base_url(request) == f"http://{host}/files/"
    else:
        with pytest.raises(InvalidRequest, match="not reached under the host"):
            origins.base_url(request)


def test_allowed_hosts_hold_for_forwarded_ones() -> None:
    origins = Origins(behind_proxy=True, trusted_proxies=("10.0.0.0/8",), allowed_hosts=frozenset({"up.example"}))
    with pytest.raises(InvalidRequest):
        origins.base_url(head("POST", headers={"X-Forwarded-Host": "evil.test"}, peer="10.0.0.1"))


# --- forwarded headers

PROXIES = Origins(behind_proxy=True, trusted_proxies=("10.0.0.0/8", "fd00::/8", "192.0.2.7/32"))


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("10.1.2.3", True),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("203.0.113.9", False),
        ("fd00::1", True),
        ("fd00::1%eth0", True),
        ("fe80::1%eth0", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:203.0.113.9", False),
        (None, True),
    ],
)
def test_trusted_proxies(peer: str | None, trusted: bool) -> None:
    assert PROXIES.trusts(peer) is trusted
    spoofed = {"Forwarded": "host=cdn.test;proto=https", "X-Forwarded-Host": "x.test", "X-Forwarded-Proto": "https"}
    expected = "https://cdn.test/files/" if trusted else "http://up.example/files/"
    assert PROXIES.base_url(head("POST", headers=spoofed, peer=peer)) == expected


def test_nobody_is_trusted_without_a_proxy() -> None:
    origins = Origins(trusted_proxies=("0.0.0.0/0",))
    assert not origins.trusts("10.0.0.1")
    assert not origins.trusts(None)
    assert origins.base_url(head("POST", headers={"X-Forwarded-Host": "evil"}, peer="10.0.0.1")) == "http://up.example/files/"


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({}, "http://up.example"),
        ({"X-Forwarded-Proto": "https"}, "https://up.example"),
        ({"X-Forwarded-Proto": "HTTPS"}, "https://up.example"),
        ({"X-Forwarded-Proto": "https, http"}, "https://up.example"),
        ({"X-Forwarded-Proto": "javascript"}, "http://up.example"),
        ({"X-Forwarded-Proto": ""}, "http://up.example"),
        ({"X-Forwarded-Host": "cdn.test"}, "http://cdn.test"),
        ({"X-Forwarded-Host": "cdn.test , inner.test"}, "http://cdn.test"),
        ({"X-Forwarded-Host": "cdn.test:443", "X-Forwarded-Proto": "https"}, "https://cdn.test"),
        ({"X-Forwarded-Host": ""}, "http://up.example"),
        ({"Forwarded": "for=192.0.2.60;proto=https;by=203.0.113.43;host=cdn.test"}, "https://cdn.test"),
        ({"Forwarded": 'Host="cdn.test:8443";Proto="HTTPS"'}, "https://cdn.test:8443"),
        ({"Forwarded": 'for="[2001:db8::1]:9";host="[2001:db8::2]:8080"'}, "http://[2001:db8::2]:8080"),
        ({"Forwarded": "for=a;host=first.test;proto=https, for=b;host=second.test;proto=http"}, "https://first.test"),
        ({"Forwarded": "for=a, for=b;host=second.test;proto=https"}, "https://second.test"),
        ({"Forwarded": "proto=https ; host=cdn.test"}, "https://cdn.test"),
        ({"Forwarded": 'for="_x;host=evil.test;proto=https"'}, "http://up.example"),
        ({"Forwarded": 'for="a\\"b;host=evil.test";host=cdn.test'}, "http://cdn.test"),
        ({"Forwarded": "x-host=evil.test;myproto=https"}, "http://up.example"),
        ({"Forwarded": 'host="unended'}, "http://up.example"),
        ({"Forwarded": "host="}, "http://up.example"),
        ({"Forwarded": ";;,=,host"}, "http://up.example"),
        ({"Forwarded": "proto=ftp"}, "http://up.example"),
        ({"Forwarded": "host=cdn.test", "X-Forwarded-Host": "x.test", "X-Forwarded-Proto": "https"}, "https://cdn.test"),
    ],
)
def test_forwarded(headers: dict[str, str], base: str) -> None:
    assert PROXIES.base_url(head("POST", headers=headers, peer="10.0.0.1")) == base + "/files/"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Host": "a b"},
        {"X-Forwarded-Host": "evil/x"},
        {"Forwarded": 'host="a b"'},
        {"Forwarded": 'host="a\r\nX: y"'},
        {"Forwarded": "host=é"},
    ],
)
def test_bad_forwarded_hosts(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        PROXIES.base_url(head("POST", headers=headers, peer="10.0.0.1"))


@given(st.text(), st.text(), st.text(), st.text())
def test_whatever_is_forwarded_a_location_can_be_sent(host: str, forwarded: str, name: str, proto: str) -> None:
    headers = {"Host": host, "Forwarded": forwarded, "X-Forwarded-Host": name, "X-Forwarded-Proto": proto}
    try:
        found = PROXIES.upload_url(head("POST", headers=headers, peer="10.0.0.1"), ID)
    except InvalidRequest:
        return
    assert found.isascii() and found.isprintable() and " " not in found
    assert found.startswith(("http://", "https://"))


# --- the client's address


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("10.0.0.1", {}, "10.0.0.1"),
        (None, {}, None),
        (None, {"X-Forwarded-For": "192.0.2.7"}, "192.0.2.7"),
        ("192.0.2.1", {"X-Forwarded-For": "1.2.3.4"}, "192.0.2.1"),
        ("10.0.0.1", {"X-Forwarded-For": "192.0.2.7"}, "192.0.2.7"),
        ("10.0.0.1", {"X-Forwarded-For": "6.6.6.6, 192.0.2.7"}, "192.0.2.7"),
        ("10.0.0.1", {"X-Forwarded-For": "6.6.6.6, 192.0.2.7, 10.0.0.2"}, "192.0.2.7"),
        ("10.0.0.1", {"X-Forwarded-For": "10.0.0.3, 10.0.0.2"}, "10.0.0.3"),
        ("10.0.0.1", {"X-Forwarded-For": "secret, 10.0.0.2"}, "10.0.0.2"),
        ("10.0.0.1", {"X-Forwarded-For": "192.0.2.7:4711"}, "192.0.2.7"),
        ("10.0.0.1", {"X-Forwarded-For": "2001:db8::1"}, "2001:db8::1"),
        ("10.0.0.1", {"X-Forwarded-For": ""}, "10.0.0.1"),
        ("10.0.0.1", {"Forwarded": 'for="[2001:db8::1]:80";proto=https, for=10.0.0.7'}, "2001:db8::1"),
        ("10.0.0.1", {"Forwarded": "for=_hidden"}, "10.0.0.1"),
        ("10.0.0.1", {"Forwarded": "for=192.0.2.7", "X-Forwarded-For": "6.6.6.6"}, "192.0.2.7"),
    ],
)
def test_the_address_of_the_client(peer: str | None, headers: dict[str, str], expected: str | None) -> None:
    behind = Origins(behind_proxy=True, trusted_proxies=("10.0.0.0/8",))
    assert behind.client(head("GET", "/", headers, peer=peer)) == expected
    assert Origins().client(head("GET", "/", headers, peer=peer)) == peer
