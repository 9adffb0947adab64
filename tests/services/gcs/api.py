"""The calls of the JSON API that carry no data: from a method, a path and a query to an answer, so that a batch can make them too."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from multidict import MultiDict

from tests.services.gcs.store import WRITABLE, Conditions, GcsError, Store, Stored, checked_fields, integer, invalid

COMPOSE_LIMIT = 32  # sources of one compose, https://cloud.google.com/storage/quotas
PAGE = 1000  # entries of a listing

READERS = {"publicRead": "allUsers", "authenticatedRead": "allAuthenticatedUsers"}  # whom a predefined ACL lets read


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `segments` are the decoded parts of its path, `host` is where the client has sent it."""

    method: str
    segments: tuple[str, ...]
    query: MultiDict[str]
    host: str
    body: bytes = b""

    @classmethod
    def of(cls, method: str, target: str, host: str, body: bytes = b"") -> Call:
        """From the target of a request line. An object's name is one segment, because its slashes are sent as %2F."""
        url = urlsplit(target)
        try:
            segments = tuple(unquote(part, errors="strict") for part in url.path.split("/")[1:])
        except UnicodeDecodeError:
            raise invalid("The path is not UTF-8") from None
        return cls(method, segments, MultiDict(parse_qsl(url.query, keep_blank_values=True)), host, body)

    def fields(self) -> dict[str, Any]:
        """The JSON of the body; nothing where it is empty."""
        return parse_json(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and what goes with it."""

    status: int
    body: dict[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: GcsError) -> Answer:
        """The answer that an error is."""
        return cls(error.status, None if error.status == 304 else error.as_json())


def parse_json(text: bytes) -> dict[str, Any]:
    """A JSON object; {} for no text, 400 for anything else."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        raise GcsError(400, "parseError", "Parse Error") from None
    if not isinstance(value, dict):
        raise GcsError(400, "parseError", "Parse Error")
    return value


async def answer(store: Store, call: Call) -> Answer:
    """Do what a call says. Raises GcsError."""
    match call.method, call.segments[2:] if call.segments[:2] == ("storage", "v1") else ():
        case "POST", ("b",):
            fields = call.fields()
            store.create_bucket(str(fields.get("name", "")), {k: fields[k] for k in ("storageClass", "location") if k in fields})
            return Answer(200, bucket_resource(store, call.host, str(fields["name"])))
        case "GET", ("b", bucket):
            return Answer(200, bucket_resource(store, call.host, bucket))
        case "DELETE", ("b", bucket):
            store.delete_bucket(bucket)
            return Answer(204)
        case "GET", ("b", bucket, "iam", "testPermissions"):
            store.bucket(bucket)
            held = call.query.getall("permissions", [])  # whoever gets this far may do all
            return Answer(200, {"kind": "storage#testIamPermissionsResponse", "permissions": held})
        case "GET", ("b", bucket, "o"):
            return Answer(200, listing(store, call, bucket))
        case "GET" | "PATCH" | "PUT" | "DELETE", ("b", bucket, "o", name):
            return one_object(store, call, bucket, name)
        case "GET", ("b", bucket, "o", name, "acl"):
            acl = resource(call.host, store.get(bucket, name), full=True).get("acl", [])
            return Answer(200, {"kind": "storage#objectAccessControls", "items": acl})
        case "POST", ("b", bucket, "o", name, "compose"):
            return Answer(200, resource(call.host, await compose(store, call, bucket, name)))
        case "POST", ("b", bucket, "o", name, "copyTo" | "rewriteTo" as way, "b", to_bucket, "o", to_name):
            copied = await copy(store, call, store.get(bucket, name, call.query.get("sourceGeneration")), to_bucket, to_name)
            if way == "copyTo":
                return Answer(200, resource(call.host, copied))
            size = str(copied.size)
            done = {"kind": "storage#rewriteResponse", "done": True, "totalBytesRewritten": size, "objectSize": size}
            return Answer(200, {**done, "resource": resource(call.host, copied)})
    raise GcsError(404, "notFound", "Not Found")


def one_object(store: Store, call: Call, bucket: str, name: str) -> Answer:
    """Read, change or delete the metadata of an object."""
    stored = store.get(bucket, name, call.query.get("generation"))
    Conditions.of(call.query).check(stored)
    if call.method == "DELETE":
        store.delete(stored)
        return Answer(204)
    if call.method != "GET":
        stored = store.patch(stored, call.fields(), whole=call.method == "PUT")
    return Answer(200, resource(call.host, stored, full=call.query.get("projection") == "full"))


def new_fields(sent: Mapping[str, Any], query: Mapping[str, str]) -> dict[str, Any]:
    """What a new object is made with: the writable fields that were sent, and what the query says of encryption and access."""
    fields = checked_fields({key: value for key, value in sent.items() if key in WRITABLE or key == "storageClass"})
    key = query.get("kmsKeyName") or query.get("destinationKmsKeyName")
    if key:
        fields["kmsKeyName"] = f"{key}/cryptoKeyVersions/1"
    reader = READERS.get(query.get("predefinedAcl") or query.get("destinationPredefinedAcl") or "")
    if reader:
        fields["acl"] = [{"kind": "storage#objectAccessControl", "entity": reader, "role": "READER"}]
    return fields


async def compose(store: Store, call: Call, bucket: str, name: str) -> Stored:
    """One object of up to 32, one after the other. It has a CRC32C, and no MD5."""
    request = call.fields()
    wanted = request.get("sourceObjects") or []
    if not wanted:
        raise invalid("You must provide at least one source component.")
    if len(wanted) > COMPOSE_LIMIT:
        raise invalid(f"The number of source components provided ({len(wanted)}) exceeds the maximum ({COMPOSE_LIMIT})")
    conditions = Conditions.of(call.query)
    conditions.check(store.find(bucket, name))
    sources = []
    for item in wanted:
        generation = item.get("generation")
        source = store.get(bucket, str(item.get("name", "")), None if generation is None else str(generation))
        expected = item.get("objectPreconditions", {}).get("ifGenerationMatch")
        Conditions(generation=None if expected is None else integer(expected)).check(source)
        sources.append(source)
    if len({source.fields["storageClass"] for source in sources}) > 1:
        raise invalid("The source objects must all have the same storage class.")
    fields = new_fields(request.get("destination", {}), call.query)
    fields["storageClass"] = sources[0].fields["storageClass"]
    components = sum(source.components or 1 for source in sources)
    composed = await _assemble(store, sources, bucket, name, fields, conditions, components)
    if request.get("deleteSourceObjects"):
        for source in {source.name: source for source in sources if source.name != name}.values():
            if store.find(bucket, source.name) == source:
                store.delete(source)
    return composed


async def copy(store: Store, call: Call, source: Stored, bucket: str, name: str) -> Stored:
    """The same data under another name, with the source's metadata unless the request brings its own."""
    Conditions.of(call.query, "Source").check(source)
    conditions = Conditions.of(call.query)
    conditions.check(store.find(bucket, name))
    sent = call.fields()
    kept = {key: value for key, value in source.fields.items() if key in WRITABLE}
    fields = {"storageClass": store.bucket(bucket)["storageClass"], **({} if WRITABLE & sent.keys() else kept)}
    fields |= new_fields(sent, call.query)
    components = source.components
    if components is not None and fields["storageClass"] != source.fields["storageClass"]:
        components = 1  # https://cloud.google.com/storage/docs/json_api/v1/objects/rewrite
    return await _assemble(store, [source], bucket, name, fields, conditions, components)


async def _assemble(
    store: Store,
    sources: list[Stored],
    bucket: str,
    name: str,
    fields: Mapping[str, Any],
    conditions: Conditions,
    components: int | None,
) -> Stored:
    """Copy data in a thread. The files are opened before, so that it does not matter what becomes of their objects meanwhile."""
    spool = store.spool(md5=components is None)  # composite objects have none
    files = [store.path(source).open("rb", buffering=0) for source in sources]

    def run() -> None:
        for file in files:
            while piece := file.read(2**20):
                spool.write(piece)

    try:
        await asyncio.to_thread(run)
        return store.put(bucket, name, spool, fields, conditions, components=components)
    except BaseException:
        spool.discard()
        raise
    finally:
        for file in files:
            file.close()


def listing(store: Store, call: Call, bucket: str) -> dict[str, Any]:
    """One page of the objects of a bucket, and of the prefixes that a delimiter makes of them."""
    store.bucket(bucket)
    prefix, delimiter = call.query.get("prefix", ""), call.query.get("delimiter", "")
    try:
        after = base64.urlsafe_b64decode(call.query.get("pageToken", "")).decode()
    except ValueError:
        raise invalid("Invalid value for pageToken") from None
    limit = min(integer(call.query.get("maxResults", PAGE), least=1), PAGE)
    end = call.query.get("endOffset")
    items: list[dict[str, Any]] = []
    prefixes: list[str] = []
    last = ""
    page: dict[str, Any] = {"kind": "storage#objects"}
    for name, stored in store.names(bucket, max(prefix, after, call.query.get("startOffset", ""))):
        if not name.startswith(prefix) or (end and name >= end):
            break
        rest = name[len(prefix) :]
        folder = prefix + rest[: rest.index(delimiter) + len(delimiter)] if delimiter and delimiter in rest else None
        entry = folder or name
        if entry <= after or entry == last:
            continue
        if len(items) + len(prefixes) == limit:
            page["nextPageToken"] = base64.urlsafe_b64encode(last.encode()).decode()
            break
        last = entry
        if folder:
            prefixes.append(folder)
        else:
            items.append(resource(call.host, stored))
    return page | ({"items": items} if items else {}) | ({"prefixes": prefixes} if prefixes else {})


def bucket_resource(store: Store, host: str, name: str) -> dict[str, Any]:
    """A bucket as the API shows it."""
    state = store.bucket(name)
    return {
        "kind": "storage#bucket",
        "id": name,
        "name": name,
        "selfLink": f"http://{host}/storage/v1/b/{name}",
        "projectNumber": "123456789012",
        "location": state["location"],
        "storageClass": state["storageClass"],
        "metageneration": "1",
        "timeCreated": _time(state["created"]),
        "updated": _time(state["created"]),
        "etag": "CAE=",
    }


def resource(host: str, stored: Stored, *, full: bool = False) -> dict[str, Any]:
    """An object as the API shows it; the access control list only where it is asked for."""
    path = f"b/{stored.bucket}/o/{quote(stored.name, safe='')}"
    shown = {
        "kind": "storage#object",
        "id": f"{stored.bucket}/{stored.name}/{stored.generation}",
        "selfLink": f"http://{host}/storage/v1/{path}",
        "mediaLink": f"http://{host}/download/storage/v1/{path}?generation={stored.generation}&alt=media",
        "name": stored.name,
        "bucket": stored.bucket,
        "generation": str(stored.generation),
        "metageneration": str(stored.metageneration),
        "size": str(stored.size),
        "crc32c": stored.crc32c,
        "etag": etag(stored),
        "timeCreated": _time(stored.created),
        "updated": _time(stored.updated),
        "timeStorageClassUpdated": _time(stored.created),
        **stored.fields,
    }
    if stored.md5 is not None:
        shown["md5Hash"] = stored.md5
    if stored.components is not None:
        shown["componentCount"] = stored.components
    if not full:
        shown.pop("acl", None)
    return shown


def etag(stored: Stored) -> str:
    """Another one for each generation and metageneration."""
    return base64.b64encode(f"{stored.generation}/{stored.metageneration}".encode()).decode()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
