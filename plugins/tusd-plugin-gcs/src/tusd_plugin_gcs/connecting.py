"""Credentials, the connection, and the proof at the start that the bucket can be used. What is wrong is said with the cure."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from tusd import plugin
from tusd.plugin import in_thread

from . import checksum
from .bucket import SMALL_THREADS
from .cloud import Cloud, Failure, NoCredentials, Related, connect, object_path
from .options import GcsOptions

T = TypeVar("T")

EMULATOR = "STORAGE_EMULATOR_HOST"
KEY_FILE = "GCS_SERVICE_ACCOUNT_FILE"
_DOWNLOADS = 32
"""Connections for downloads that are kept open for the next one."""
_PATIENCE = 5.0
"""Seconds for which a request at the start is tried again."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to get to the bucket."""

    endpoint: str | None
    """None: Google's."""
    anonymous: bool
    key_file: str | None
    key_named_by: str = ""
    """Who has named the key file."""


def way_of(options: GcsOptions) -> Way:
    """By the options, then by the environment. Raises `StorageUnavailable`."""
    emulator = os.environ.get(EMULATOR) or None
    endpoint = options.endpoint or emulator
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise plugin.StorageUnavailable(f"{EMULATOR} is {endpoint!r}, which is no address; write http://host:port")
    if options.service_account_file is not None:
        return Way(endpoint, False, str(options.service_account_file), "service_account_file")
    local = endpoint is not None and (options.endpoint is None or endpoint.startswith("http://"))
    if options.anonymous or (options.anonymous is None and local and not os.environ.get(KEY_FILE)):
        return Way(endpoint, True, None)
    if os.environ.get(KEY_FILE):
        return Way(endpoint, False, os.environ[KEY_FILE], KEY_FILE)
    return Way(endpoint, False, None)


@asynccontextmanager
async def connected(options: GcsOptions, worker: plugin.Worker) -> AsyncIterator[Cloud]:
    """A client of the bucket, which has been tried. Raises `StorageUnavailable`."""
    way = way_of(options)
    if options.spill is not None and not os.access(options.spill, os.W_OK | os.X_OK):
        raise plugin.StorageUnavailable(f"spill: {options.spill} is no folder that can be written; make it, or set another one")
    threads = options.concurrency + 2 * SMALL_THREADS + _DOWNLOADS
    try:
        cloud = await in_thread(
            partial(connect, options, endpoint=way.endpoint, anonymous=way.anonymous, key_file=way.key_file, threads=threads)
        )
    except NoCredentials as error:
        raise plugin.StorageUnavailable(_credentials_text(way, error)) from error
    try:
        try:
            await in_thread(partial(prove, cloud, options))
        except Refused as error:
            raise plugin.StorageUnavailable(_text(options, way, cloud.address, error)) from error
        worker.logger.info("uploads are kept in gs://%s/%s at %s", options.bucket, options.prefix, cloud.address)
        yield cloud
    finally:
        await in_thread(cloud.close)


def prove(cloud: Cloud, options: GcsOptions) -> None:
    """Do to an object all that a store does to objects, and see that a condition is kept. Raises `Refused`, `StorageUnavailable`."""
    name = f"{options.prefix}tusd-probe-{secrets.token_hex(8)}"
    path = object_path(options.bucket, name)
    first = _step("storage.objects.create", partial(_write, cloud, options, name, 0))
    try:
        _step("storage.objects.delete", partial(_write, cloud, options, name, first))
        _step("storage.objects.get", partial(cloud.request, "GET", path, {"alt": "media"}, patience=_PATIENCE))
        listing = object_path(options.bucket, "").removesuffix("/")
        _step("storage.objects.list", partial(cloud.request, "GET", listing, {"prefix": name}, patience=_PATIENCE))
        _see_a_condition_kept(cloud, options, name)
    finally:
        with suppress(Failure):  # what is wrong has been said, or was not when the same was allowed a moment ago
            cloud.request("DELETE", path, patience=_PATIENCE)


def _see_a_condition_kept(cloud: Cloud, options: GcsOptions, name: str) -> None:
    try:
        _write(cloud, options, name, 0)
    except Failure as error:
        if error.status == 412:
            return
        raise Refused("storage.objects.create", error) from error
    raise plugin.StorageUnavailable(
        f"the server at {cloud.address} ignores ifGenerationMatch, so two requests could lose each other's bytes; use another one"
    )


class Refused(Exception):
    """A request of the proof failed."""

    def __init__(self, permission: str, failure: Failure) -> None:
        super().__init__(str(failure).rstrip("."))
        self.permission = permission
        """What it needed."""
        self.failure = failure


def _step(permission: str, request: Callable[[], T]) -> T:
    try:
        return request()
    except Failure as error:
        raise Refused(permission, error) from error


def _write(cloud: Cloud, options: GcsOptions, name: str, match: int) -> int:
    """Write as a store does; returns the generation."""
    about = {
        "name": name,
        "crc32c": checksum.encoded(0),
        **({"storageClass": options.storage_class} if options.storage_class else {}),
    }
    query: dict[str, str | int | list[str]] = {"uploadType": "multipart", "ifGenerationMatch": match}
    if options.acl:
        query["predefinedAcl"] = options.acl
    if options.kms_key:
        query["kmsKeyName"] = options.kms_key
    path = f"/upload/storage/v1/b/{options.bucket}/o"
    found = cloud.request("POST", path, query, body=Related(about, b"", 0), patience=_PATIENCE).json()
    try:
        return int(found["generation"])
    except (KeyError, ValueError, TypeError):
        raise Failure(None, "the answer is not what Cloud Storage sends; is `endpoint` right?") from None


def _credentials_text(way: Way, error: NoCredentials) -> str:
    if way.key_file is not None:
        return (
            f"the file {way.key_file}, named by {way.key_named_by}, is not the key of a service account that can be used: "
            f"{str(error).rstrip('.')}; make one with: gcloud iam service-accounts keys create FILE --iam-account=NAME"
        )
    return (
        f"no Google credentials were found: {error.args[0].rstrip('.')}; set storage.service_account_file or {KEY_FILE}, or "
        f"GOOGLE_APPLICATION_CREDENTIALS, or run: gcloud auth application-default login"
    )


def _text(options: GcsOptions, way: Way, address: str, error: Refused) -> str:
    """What is wrong with a request at the start, where, and what to do."""
    where = f"bucket {options.bucket} at {address}"
    match error.failure.status:
        case None if error.failure.passing:
            cure = "check storage.endpoint" if way.endpoint else "check the network and the proxy (HTTPS_PROXY)"
            return f"{where} cannot be reached: {error}; {cure}"
        case None | 401 if way.anonymous:
            return f"{where} does not let us in without credentials: {error}; set storage.service_account_file"
        case None | 401:
            return f"{where} does not take our credentials: {error}; check those{_of(way) or ' of this machine'}"
        case 403:
            return (
                f"{where} may not be used: {error}; the credentials{_of(way)} lack {error.permission}: give their account the role "
                f"roles/storage.objectUser on the bucket"
            )
        case 404:
            return (
                f"{where} does not exist: {error}; make it (gcloud storage buckets create gs://{options.bucket}) or correct "
                f"storage.bucket{' or storage.endpoint' if way.endpoint else ''}"
            )
        case 400:
            return f"{where} refuses what we write: {error}; check storage.acl, storage.storage_class and storage.kms_key"
        case status:
            return f"{where} cannot be used: it answers {status}: {error}; try again later"


def _of(way: Way) -> str:
    return f" of {way.key_file}" if way.key_file else ""
