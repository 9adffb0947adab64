"""Heads that are no HTTP/1.1, that ask for strange things, or for too much."""

from __future__ import annotations

from tests.web.raw import OCTETS, chunked, patch, post, request

from .shape import DELETE_VICTIM, LENGTH, UPLOAD, Shape, accepted, refused

# --- what is no HTTP/1.1

_HEAD = f"HEAD {UPLOAD} HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\n".encode()


def _line(line: bytes, host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + b"Tus-Resumable: 1.0.0\r\n\r\n"


NO_HTTP = refused(
    {
        "words": b"hello server\r\n\r\n",
        "one word": b"hello\r\n\r\n",
        "spaces": b"   \r\n\r\n",
        "nuls": b"\0" * 100 + b"\r\n\r\n",
        "noise": bytes(range(128, 256)) * 10 + b"\r\n\r\n",
        "tls hello": bytes.fromhex("1603010200010001fc0303") + b"\x5a" * 500,
        "socks": b"\x05\x01\x00\x05\x01\x00\x03\x04test\x00\x50\r\n\r\n",
        "proxy protocol": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + _line(b"HEAD / HTTP/1.1"),
        "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        "http/0.9": f"GET {UPLOAD}\r\n".encode() + b"\r\n",
        "http/0.9 without a path": b"GET\r\n\r\n",
        "http/2.0": _line(f"GET {UPLOAD} HTTP/2.0".encode()),
        "http/0.9 in words": _line(f"GET {UPLOAD} HTTP/0.9".encode()),
        "http/9.9": _line(f"HEAD {UPLOAD} HTTP/9.9".encode()),
        "http/1.10": _line(f"HEAD {UPLOAD} HTTP/1.10".encode()),
        "http/1": _line(f"HEAD {UPLOAD} HTTP/1".encode()),
        "http/-1.1": _line(f"HEAD {UPLOAD} HTTP/-1.1".encode()),
        "http/1.1 in small letters": _line(f"HEAD {UPLOAD} http/1.1".encode()),
        "version of a thousand digits": _line(f"HEAD {UPLOAD} HTTP/{'1' * 1000}.1".encode()),
        "rtsp": _line(f"HEAD {UPLOAD} RTSP/1.0".encode()),
        "four words": _line(f"HEAD {UPLOAD} x HTTP/1.1".encode()),
        "space before the method": _line(f" HEAD {UPLOAD} HTTP/1.1".encode()),
        "tabs between": _line(f"HEAD\t{UPLOAD}\tHTTP/1.1".encode()),
        "nul in the target": _line(f"HEAD {UPLOAD}\0x HTTP/1.1".encode()),
        "no colon": _HEAD + b"X\r\n\r\n",
        "no name": _HEAD + b": x\r\n\r\n",
        "space in a name": _HEAD + b"X Y: a\r\n\r\n",
        "space before a colon": _HEAD + b"X : a\r\n\r\n",
        "nul in a name": _HEAD + b"X\0Y: a\r\n\r\n",
        "nul in a value": _HEAD + b"X: a\0b\r\n\r\n",
        "bare cr in a value": _HEAD + b"X: a\rY: b\r\n\r\n",
        "bare cr behind the head": _HEAD + b"\r" + DELETE_VICTIM,
        "folded": _HEAD + b"X: a\r\n b\r\n\r\n",
        "umlaut in a name": _HEAD + "\u00dc: a\r\n\r\n".encode(),
        "connect": _line(b"CONNECT example.test:80 HTTP/1.1"),
        "connect to nothing": b"CONNECT  \r\nHost: a\r\n\r\n",
        "connect to a path": _line(f"CONNECT {UPLOAD} HTTP/1.1".encode()),
        "target of a host": _line(b"GET example.test:80 HTTP/1.1"),
        "target with a bad port": _line(f"HEAD http://example.test:x{UPLOAD} HTTP/1.1".encode()),
        "target with a bad bracket": _line(f"HEAD http://[::1{UPLOAD} HTTP/1.1".encode()),
        "target without a slash": _line(b"HEAD files HTTP/1.1"),
        "target star": _line(b"GET * HTTP/1.1"),
        "target question mark": _line(b"GET ? HTTP/1.1"),
    },
    505,
) | {
    "target with its scheme": accepted(_line(f"HEAD http://a{UPLOAD} HTTP/1.1".encode()), 200),
    "target of another host": accepted(_line(f"HEAD http://other.test{UPLOAD} HTTP/1.1".encode()), 200),
    "target with another scheme": accepted(_line(f"HEAD gopher://a{UPLOAD} HTTP/1.1".encode()), 200),
    "target with a user": accepted(_line(f"HEAD http://user:password@a{UPLOAD} HTTP/1.1".encode()), 200),
    "target with a fragment": accepted(_line(f"HEAD {UPLOAD}#x HTTP/1.1".encode()), 200),
    "options star": accepted(_line(b"OPTIONS * HTTP/1.1"), 200),
    "lf alone": accepted((_HEAD + b"\r\n").replace(b"\r\n", b"\n"), 200),
    "empty lines in front": accepted(b"\r\n" * 10 + _HEAD + b"\r\n", 200),
    "nothing but empty lines": Shape(b"\r\n" * 10_000, waits=True),
    "half a head": Shape(_HEAD, waits=True),
    "half a line": Shape(b"HEAD /fi", waits=True),
    "no host": accepted(_line(f"HEAD {UPLOAD} HTTP/1.1".encode(), b""), 200),
}

# --- methods, hosts, expectations, codings, upgrades

METHODS = refused(
    {
        name: _line(f"{method} {UPLOAD} HTTP/1.1".encode())
        for name, method in {
            "put": "PUT",
            "trace": "TRACE",
            "propfind": "PROPFIND",
            "lower case": "delete",
            "mixed case": "DeLeTe",
            "long": "A" * 10_000,
            "very long": "A" * 200_000,
            "signs": "!#$%&'*+-.^_`|~",
            "slash": "GET/",
            "other letters": "D\u0415LETE",
            "brace": "GET{}",
        }.items()
    }
    | {
        f"override {name}": request("POST", UPLOAD, [("X-HTTP-Method-Override", value), ("Content-Type", OCTETS)])
        for name, value in {
            "nonsense": "FROB",
            "post": "POST",
            "empty": "",
            "list": "HEAD, DELETE",
            "nul": "%00",
            "long": "A" * 9999,
        }.items()
    }
    | {"override twice": request("POST", UPLOAD, [("X-HTTP-Method-Override", "HEAD"), ("X-HTTP-Method-Override", "DELETE")])}
)
HOSTS = {
    name: accepted(request("POST", "/files/", [*(("Host", host) for host in hosts), ("Upload-Length", 1)]), 201)
    if name.startswith("fine")
    else Shape(request("POST", "/files/", [*(("Host", host) for host in hosts), ("Upload-Length", 1)]))
    for name, hosts in {
        "empty": [""],
        "two": ["a", "b"],
        "the same twice": ["a", "a"],
        "list": ["a, b"],
        "user": ["a@b"],
        "path": ["a/b"],
        "backslash": ["a\\b"],
        "query": ["a?b"],
        "fragment": ["a#b"],
        "space": ["a b"],
        "quote": ['a"b'],
        "script": ["<script>"],
        "port of letters": ["a:b"],
        "two ports": ["a:1:2"],
        "port of many digits": ["a:" + "9" * 100],
        "negative port": ["a:-1"],
        "open bracket": ["[::1"],
        "empty brackets": ["[]"],
        "unicode": ["\u00e4.test"],
        "percent": ["a%0d%0ab"],
        "fine: long": ["a." * 5000 + "test"],
        "fine: address": ["[::1]:80"],
    }.items()
}
EXPECTATIONS = {
    f"{name} {kind}": accepted(stream, 204, 200, 100, 201)
    for name, value in {
        "nonsense": "the-unexpected",
        "list": "100-continue, 100-continue",
        "upper case": "100-CONTINUE",
        "number": "100",
        "empty": "",
        "long": "1" * 10_000,
        "parameter": "100-continue; a=b",
    }.items()
    for kind, stream in {
        "patch": patch(UPLOAD, 0, b"hello", {"Expect": value}),
        "head": request("HEAD", UPLOAD, {"Expect": value}),
        "post": post({"Upload-Length": 5, "Expect": value}, b"hello"),
    }.items()
}
CODINGS = {
    f"content {value}": accepted(patch(UPLOAD, 0, b"hello", {"Content-Encoding": value}), 204)
    for value in ("gzip", "deflate", "br", "zstd", "identity", "gzip, gzip", "x" * 5000, "")
} | {
    f"te {value}": accepted(patch(UPLOAD, 0, b"hello", {"TE": value}), 204)
    for value in ("trailers", "gzip;q=1", "chunked", ",,,")
}
UPGRADES = {
    f"upgrade {value}": accepted(
        patch(UPLOAD, 0, b"hello", {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": value, "HTTP2-Settings": "AAMAAABkAAQ"})
        + DELETE_VICTIM,
        204,
    )
    for value in ("h2c", "websocket", "TLS/1.0", "HTTP/2.0", "h2c, websocket", "x" * 1000, "")
}

# --- too much of a thing

BOMBS = refused(
    {
        "long line": request("HEAD", UPLOAD, {"X": "a" * 200_000}),
        "long name": request("HEAD", UPLOAD, {"X" * 200_000: "a"}),
        "long target": request("HEAD", UPLOAD + "a" * 200_000),
        "many lines": request("HEAD", UPLOAD, [(f"X-{n}", n) for n in range(20_000)]),
        "one line many times": request("HEAD", UPLOAD, [("X", "a")] * 20_000),
        "head of 10 MiB": request("HEAD", UPLOAD, [(f"X-{n}", "a" * 60_000) for n in range(170)]),
        "no end": b"HEAD / HTTP/1.1\r\n" + b"X: a\r\n" * 50_000,
        "a line without an end": b"HEAD / HTTP/1.1\r\nX: " + b"a" * 1_000_000,
        "a target without an end": b"HEAD /" + b"a" * 1_000_000,
        "metadata of 200 KiB": post({"Upload-Length": 1, "Upload-Metadata": "a " + "YWFh" * 50_000}),
        "metadata of thousands of keys": post({"Upload-Length": 1, "Upload-Metadata": ",".join(f"k{n}" for n in range(8000))}),
        "metadata with a key of 20 KiB": post({"Upload-Length": 1, "Upload-Metadata": "k" * 20_000}),
        "metadata in hundreds of lines": request(
            "POST", "/files/", [("Upload-Length", 1)] + [("Upload-Metadata", "a YQ==")] * 500
        ),
        "parts without number": post({"Upload-Concat": "final;" + " ".join([UPLOAD] * 1500)}),
        "ten thousand parts": post({"Upload-Concat": "final;" + " ".join(["/files/a"] * 10_000)}),
        "checksum of 60 KiB": patch(UPLOAD, 0, b"hello", {"Upload-Checksum": "sha1 " + "A" * 60_000}),
        "checksum without number": request(
            "PATCH", UPLOAD, [("Upload-Offset", 0), ("Content-Type", OCTETS)] + [("Upload-Checksum", "sha1 AAAA")] * 500, b"hello"
        ),
        "override of 60 KiB": request("POST", UPLOAD, {"X-HTTP-Method-Override": "A" * 60_000}),
    }
) | {
    "metadata of thousands of short keys": accepted(
        post({"Upload-Length": 1, "Upload-Metadata": ",".join(f"k{n}" for n in range(2500))}), 201
    ),
    "thousands of query parameters": accepted(request("HEAD", f"{UPLOAD}?" + "&".join(f"a{n}=b" for n in range(6000))), 200),
    "query of percents": accepted(request("HEAD", f"{UPLOAD}?" + "%" * 5000), 200),
    "thousands of ranges": accepted(request("GET", UPLOAD, {"Range": "bytes=" + ",".join(f"{n}-{n}" for n in range(8000))}), 200),
    "range of digits": accepted(request("GET", UPLOAD, {"Range": "bytes=" + "9" * 5000 + "-"}), 200),
    "etags without number": accepted(request("GET", UPLOAD, {"If-None-Match": ",".join(['"a"'] * 9000)}), 200),
    "forwarded": accepted(
        request("HEAD", UPLOAD, {"Forwarded": 'for="' * 9000, "X-Forwarded-Host": "a," * 9000, "X-Forwarded-Proto": "b" * 9000}),
        200,
    ),
    "cookies": accepted(request("HEAD", UPLOAD, {"Cookie": "a=b;" * 12_000}), 200),
    "origin": accepted(request("HEAD", UPLOAD, {"Origin": "http://" + "a." * 20_000}), 200),
    "preflight": accepted(
        request(
            "OPTIONS",
            UPLOAD,
            {"Origin": "http://a", "Access-Control-Request-Method": "A" * 9000, "Access-Control-Request-Headers": "b," * 9000},
        ),
        200,
    ),
    "content type": accepted(patch(UPLOAD, 0, b"hello", {"Content-Type": OCTETS + ";a=b" * 9000}), 204),
    "dates": accepted(request("GET", UPLOAD, {"If-Modified-Since": "Mon, 01 Jan " + "9" * 5000 + " 00:00:00 GMT"}), 200),
    "length of ten thousand zeros": accepted(patch(UPLOAD, 0, b"hello", {"Content-Length": "0" * 10_000 + "5"}), 204),
    "chunk with a huge extension": accepted(
        patch(UPLOAD, 0, b"3;" + b"a" * 200_000 + b"\r\nabc\r\n" + b"0\r\n\r\n", {"Transfer-Encoding": "chunked"}), 204
    ),
    "pipelined": accepted(request("OPTIONS", "/files/") * 500, 200, most=500),
    "tiny chunks": accepted(patch(UPLOAD, 0, chunked(b"x" * LENGTH, 1), {"Transfer-Encoding": "chunked"}), 204),
}
