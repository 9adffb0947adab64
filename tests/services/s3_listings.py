"""Listings of S3 that miss what was written lately."""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import unquote, unquote_plus
from xml.etree import ElementTree

from tests.services.fault_rules import Request

Entry = tuple[str, ...]
"""What a listing names: (bucket, key), or with an upload's id and a part's number behind it, or with the id alone."""
OBJECTS = {"PutObject", "CopyObject", "CompleteMultipartUpload"}
PARTS = {"UploadPart", "UploadPartCopy"}


class Writes:
    """When was written what, as far as it went through the proxy."""

    def __init__(self) -> None:
        self._when: dict[Entry, float] = {}

    def needs(self, request: Request) -> bool:
        """Whether `written` wants to see the answer."""
        return request.operation == "CreateMultipartUpload"

    def written(self, request: Request, answer: bytes) -> None:
        """The server has done the request and said this."""
        named = request.named
        if named.operation in OBJECTS:
            self._when[named.bucket, named.key] = time.monotonic()
        elif named.operation in PARTS:
            self._when[named.bucket, named.key, named.upload, str(named.part)] = time.monotonic()
        elif named.operation == "CreateMultipartUpload":
            upload = _text(ElementTree.fromstring(answer), "UploadId")
            self._when[named.bucket, named.key, upload] = time.monotonic()

    def without_newer(self, request: Request, listing: bytes, seconds: float) -> bytes:
        """The listing without what was written in the last `seconds`."""
        since = time.monotonic() - seconds
        hidden = {entry for entry, when in self._when.items() if when > since}
        root = ElementTree.fromstring(listing)
        namespace = root.tag.removesuffix(_name(root))
        ElementTree.register_namespace("", namespace.strip("{}"))
        for element in list(root):
            if not hidden.isdisjoint(_entries(request, element)):
                root.remove(element)
        if (count := root.find(f"{namespace}KeyCount")) is not None:
            listed = sum(_name(element) in ("Contents", "CommonPrefixes") for element in root)
            count.text = str(listed)
        shown: bytes = ElementTree.tostring(root, "utf-8", xml_declaration=True)
        return shown


def _entries(request: Request, element: ElementTree.Element) -> set[Entry]:
    """What an element of the listing names; keys may be encoded as in a URL, in either way."""
    named, kind = request.named, _name(element)
    if kind == "Part":
        return {(named.bucket, named.key, named.upload, _text(element, "PartNumber"))}
    if kind not in ("Contents", "Upload"):
        return set()
    more = (_text(element, "UploadId"),) if kind == "Upload" else ()
    key = _text(element, "Key")
    keys = {unquote(key), unquote_plus(key)} if _encoded(request.query) else {key}
    return {(named.bucket, key, *more) for key in keys}


def _encoded(query: Mapping[str, str]) -> bool:
    return query.get("encoding-type") == "url"


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ElementTree.Element, name: str) -> str:
    found = next((child.text for child in element if _name(child) == name), None)
    assert found, f"no {name} in {_name(element)}"
    return found
