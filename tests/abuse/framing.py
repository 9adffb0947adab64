"""Smuggling: two readings of where a body ends, and behind it a request that must never be carried out."""

from __future__ import annotations

from tests.web.raw import OCTETS

from .shape import DELETE_VICTIM, UPLOAD, refused


def _framed(lines: bytes, body: bytes = b"") -> bytes:
    head = f"PATCH {UPLOAD} HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: {OCTETS}\r\n"
    return head.encode() + lines + b"\r\n" + body + DELETE_VICTIM


_TE = b"Transfer-Encoding: chunked\r\n"
_END = b"0\r\n\r\n"

_LENGTHS = {
    "and chunked": b"Content-Length: 5\r\n" + _TE,
    "behind chunked": _TE + b"Content-Length: 5\r\n",
    "of nothing and chunked": b"Content-Length: 0\r\n" + _TE,
    "around the tail and chunked": b"Content-Length: %d\r\n" % (len(_END) + len(DELETE_VICTIM)) + _TE,
    "twice, different": b"Content-Length: 0\r\nContent-Length: 5\r\n",
    "twice, equal": b"Content-Length: 5\r\nContent-Length: 5\r\n",
    "twice in one line": b"Content-Length: 5, 5\r\n",
    "twice in one line, different": b"Content-Length: 0,5\r\n",
    "with a plus": b"Content-Length: +5\r\n",
    "below zero": b"Content-Length: -5\r\n",
    "in hex": b"Content-Length: 0x5\r\n",
    "with an exponent": b"Content-Length: 5e0\r\n",
    "with a point": b"Content-Length: 5.0\r\n",
    "with an underscore": b"Content-Length: 1_0\r\n",
    "in quotes": b'Content-Length: "5"\r\n',
    "with a space within": b"Content-Length: 0 5\r\n",
    "with a nul": b"Content-Length: 5\x00\r\n",
    "with a vertical tab": b"Content-Length: \x0b5\r\n",
    "with a form feed": b"Content-Length: 5\x0c\r\n",
    "in Arabic digits": "Content-Length: \u0665\r\n".encode(),
    "in full-width digits": "Content-Length: \uff15\r\n".encode(),
    "in superscript": b"Content-Length: \xb2\r\n",
    "empty": b"Content-Length:\r\n",
    "of 2**63": b"Content-Length: 9223372036854775808\r\n",
    "of 2**64 + 5": b"Content-Length: 18446744073709551621\r\n",
    "of a thousand digits": b"Content-Length: " + b"9" * 1000 + b"\r\n",
    "with a space before the colon": b"Content-Length : 5\r\n",
    "with a tab before the colon": b"Content-Length\t: 5\r\n",
    "with a space before its name": b" Content-Length: 5\r\n",
    "folded": b"Content-Length:\r\n 5\r\n",
    "folded into another": b"X: a\r\n Content-Length: 5\r\n",
    "behind a bare cr": b"X: a\rContent-Length: 5\r\n",
    "with a nul in its name": b"Content\x00-Length: 5\r\n",
}
_CODINGS = {
    "gzip": b"Transfer-Encoding: gzip\r\n",
    "identity": b"Transfer-Encoding: identity\r\n",
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n",
    "chunked, gzip": b"Transfer-Encoding: chunked, gzip\r\n",
    "chunked, chunked": b"Transfer-Encoding: chunked, chunked\r\n",
    "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n",
    "chunked in two lines": _TE + _TE,
    "chunked, then identity": _TE + b"Transfer-Encoding: identity\r\n",
    "identity, then chunked": b"Transfer-Encoding: identity\r\n" + _TE,
    "xchunked": b"Transfer-Encoding: xchunked\r\n",
    "chunkedx": b"Transfer-Encoding: chunkedx\r\n",
    "in quotes": b'Transfer-Encoding: "chunked"\r\n',
    "with a parameter": b"Transfer-Encoding: chunked;q=1\r\n",
    "behind a comma": b"Transfer-Encoding: ,chunked\r\n",
    "before a comma": b"Transfer-Encoding: chunked,\r\n",
    "empty": b"Transfer-Encoding:\r\n",
    "with a vertical tab": b"Transfer-Encoding: \x0bchunked\r\n",
    "with a nul": b"Transfer-Encoding: chunked\x00\r\n",
    "with a line feed in front": b"Transfer-Encoding:\n chunked\r\n",
    "folded": b"Transfer-Encoding:\r\n chunked\r\n",
    "folded into another": b"X: a\r\n Transfer-Encoding: chunked\r\n",
    "with a space before the colon": b"Transfer-Encoding : chunked\r\n",
    "with a space before its name": b" Transfer-Encoding: chunked\r\n",
    "behind a bare cr": b"X: a\rTransfer-Encoding: chunked\r\n",
    "with an underscore": b"Transfer_Encoding: chunked\r\nContent-Length: 99999999999999999999\r\n",
    "in other letters": "Transfer-Encoding: chun\u212aed\r\n".encode(),
    "no break space": "Transfer-Encoding: chunked\u00a0\r\n".encode(),
}
_CHUNKS = {
    "below zero": b"-3\r\nabc\r\n" + _END,
    "with a plus": b"+3\r\nabc\r\n" + _END,
    "with 0x": b"0x3\r\nabc\r\n" + _END,
    "zero with 0x": b"0x0\r\n\r\n",
    "with an underscore": b"0_3\r\nabc\r\n" + _END,
    "no number": b"xyz\r\nabc\r\n" + _END,
    "empty": b"\r\nabc\r\n" + _END,
    "of 2**64 + 3": b"10000000000000003\r\nabc\r\n" + _END,
    "of 2**64": b"10000000000000000\r\n\r\n",
    "of a hundred digits": b"f" * 100 + b"\r\nabc\r\n" + _END,
    "behind a space": b" 3\r\nabc\r\n" + _END,
    "before a tab": b"3\t\r\nabc\r\n" + _END,
    "with a space within": b"0 3\r\nabc\r\n" + _END,
    "with a nul": b"3\x00\r\nabc\r\n" + _END,
    "in Arabic digits": "\u0663\r\nabc\r\n".encode() + _END,
    "before a bare cr": b"3\rabc\r\n" + _END,
    "before a bare lf": b"3\nabc\r\n" + _END,
    "end with a bare lf": b"0\n\n",
    "data without its crlf": b"3\r\nabc" + _END,
    "data ended by lf": b"3\r\nabc\n" + _END,
    "data ended by cr": b"3\r\nabc\r" + _END,
    "data longer than said": b"3\r\nabcd\r\n" + _END,
    "data of two crlf": b"3\r\nabc\r\n\r\n" + _END,
    "a bare lf in an extension": b"3;a\nb\r\nabc\r\n" + _END,
    "a nul in an extension": b"3;a=\x00\r\nabc\r\n" + _END,
    "huge trailer": b"0\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "very many trailers": b"0\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
    "trailer without a colon": b"0\r\nX\r\n\r\n",
    "trailer with a space before the colon": b"0\r\nX : a\r\n\r\n",
}
SMUGGLING = {
    **refused({f"length {name}": _framed(lines, _END) for name, lines in _LENGTHS.items()}),
    # 501: "a server that receives a request message with a transfer coding it does not understand" (RFC 9112 section 6.1)
    **refused({f"coding {name}": _framed(lines, _END) for name, lines in _CODINGS.items()}, 501),
    **refused({f"chunk {name}": _framed(_TE, body) for name, body in _CHUNKS.items()}),
}
