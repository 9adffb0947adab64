"""The `storage:` block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tusd import plugin

from .keys import checked_prefix, checked_template

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+(/[A-Za-z0-9._/-]*)?")
_KMS_KEY = re.compile(r"projects/[^/\s]+/locations/[^/\s]+/keyRings/[^/\s]+/cryptoKeys/[^/\s]+")

Acl = Literal["authenticatedRead", "bucketOwnerFullControl", "bucketOwnerRead", "private", "projectPrivate", "publicRead"]
"""https://cloud.google.com/storage/docs/access-control/lists#predefined-acl"""


def _bucket(text: str) -> str:
    if not _BUCKET.fullmatch(text):
        raise ValueError("not the name of a bucket; write it without gs:// and without a path, such as my-uploads")
    return text


def _endpoint(text: str) -> str:
    if not _ENDPOINT.fullmatch(text):
        raise ValueError("not the address of a server; write http://host:port or https://host")
    return text.rstrip("/")


def _kms_key(text: str) -> str:
    if not _KMS_KEY.fullmatch(text):
        raise ValueError("not the name of a key; write projects/P/locations/L/keyRings/R/cryptoKeys/K")
    return text


class GcsOptions(plugin.Options):
    """The `storage:` block."""

    bucket: Annotated[str, AfterValidator(_bucket)]
    """The bucket that uploads are kept in; a bucket of Go tusd is taken over as it is."""
    prefix: Annotated[str, AfterValidator(checked_prefix)] = ""
    """What the names of all objects begin with, as a folder: `uploads` and `uploads/` are the same."""
    key: Annotated[str, AfterValidator(checked_template)] = "{id}"
    """What the object of a complete upload is called, below `prefix`: text with `{id}`, which must be there, `{filename}` and `{date:%Y/%m/%d}`."""
    part_size: Annotated[plugin.Size, Field(ge=1 << 18, le=5 << 30)] = 50 << 20
    """The bytes that are sent as one object while a body comes. Larger for uploads that would need more than 10,000 of them."""
    buffer: Annotated[plugin.Size, Field(ge=1 << 20)] = 256 << 20
    """The most bytes of bodies that one worker holds in memory; when they are reached, clients are slowed down."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 10
    """How many pieces of bodies one worker sends at once."""
    spill: Path | None = None
    """A folder for unnamed files that hold the pieces instead of memory. Not set: memory."""
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    """Another server than Google's, such as an emulator or a private endpoint. Not set: STORAGE_EMULATOR_HOST, or Google's."""
    anonymous: bool | None = None
    """Send no credentials. Not set: only to STORAGE_EMULATOR_HOST, and to an `endpoint` with http:// while no file of a service account is named."""
    service_account_file: Path | None = None
    """The JSON file of a service account's key. Not set: the one that GCS_SERVICE_ACCOUNT_FILE names, or Application Default Credentials."""
    project: str | None = None
    """The project that requests are charged to, for a bucket where the requester pays."""
    storage_class: str | None = None
    """The storage class of all objects. Not set: the bucket's default."""
    acl: Acl | None = None
    """Who may read the object of a complete upload, in a bucket with access control lists. Not set: the bucket's rule."""
    kms_key: Annotated[str, AfterValidator(_kms_key)] | None = None
    """The key of Cloud KMS that all objects are encrypted with. Not set: the bucket's default."""
    connect_timeout: Annotated[plugin.Duration, Field(gt=0)] = 10
    """How long to wait for a connection."""
    read_timeout: Annotated[plugin.Duration, Field(gt=0)] = 60
    """How long to wait for an answer, or for the next bytes of one."""
    give_up_after: Annotated[plugin.Duration, Field(ge=0)] = 30
    """How long a request that fails for a passing reason is tried again, with growing pauses of a random length."""

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if self.anonymous and self.service_account_file is not None:
            raise ValueError("anonymous and service_account_file exclude each other; set one of them")
        return self
