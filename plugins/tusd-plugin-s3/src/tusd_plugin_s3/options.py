"""The `storage:` block of `use: s3`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tusd import plugin

from . import keys
from .profiles import MIB, PROFILES, Profile

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]|arn:[A-Za-z0-9:/._-]+")
_TAGS_MOST = 10


def _url(text: str) -> SplitResult | None:
    """A URL of a server; None: it is none."""
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and url.hostname and url.port != 0 and not url.query and not url.fragment
    except ValueError:
        return None
    return url if good else None


def _endpoint(text: str) -> str:
    url = _url(text)
    if url is None or url.username is not None:
        raise ValueError("not an endpoint; write https://host, or http://host:port, without the bucket")
    return text.rstrip("/")


def _proxy(text: str) -> str:
    url = _url(text)
    if url is None or url.path.strip("/"):
        raise ValueError("not a proxy; write http://host:port, or http://user:password@host:port")
    return text.rstrip("/")


def _bucket(text: str) -> str:
    if not _BUCKET.fullmatch(text):
        raise ValueError(
            "not the name of a bucket; write only its name (3 to 63 letters, digits, - and .), the server goes into endpoint"
        )
    return text


def _on_off(value: object) -> object:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value  # as YAML reads on and off


def _prefix(text: str) -> str:
    return keys.checked_prefix(text)


class Encryption(plugin.Options):
    """How the server encrypts all that we store."""

    algorithm: Literal["AES256", "aws:kms", "aws:kms:dsse"] = "AES256"
    """AES256: with a key that the server keeps (SSE-S3); aws:kms: with one of its key management (SSE-KMS)."""
    kms_key: str | None = None
    """The key's id or ARN; not set: the account's key for S3."""
    bucket_key: bool = False
    """Ask the key management once per bucket and not once per object, which is cheaper."""

    @model_validator(mode="after")
    def _kms_only(self) -> Self:
        if self.algorithm == "AES256" and (self.kms_key is not None or self.bucket_key):
            raise ValueError('kms_key and bucket_key need algorithm: "aws:kms"')
        return self


class Options(plugin.Options):
    """The block in `storage:`."""

    bucket: Annotated[str, AfterValidator(_bucket)]
    """The bucket that uploads go to. It must exist."""
    profile: (
        Literal["aws", "minio", "ceph", "r2", "backblaze", "wasabi", "scaleway", "digitalocean", "google", "other"] | None
    ) = None
    """What kind of server it is. Not set: aws, or other where there is an `endpoint`."""
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    """The URL of the server, such as `http://127.0.0.1:9000`. Not set: what the profile knows."""
    region: str | None = None
    """The region that the bucket is in. Not set: what the environment, `~/.aws/config` or the profile says."""
    access_key_id: str | None = None
    """Not set: as the AWS SDK finds credentials (environment, `~/.aws`, the role of the container or machine)."""
    secret_access_key: plugin.Secret | None = None
    """Belongs to `access_key_id`."""
    session_token: plugin.Secret | None = None
    """Belongs to temporary credentials."""
    aws_profile: str | None = None
    """A section of `~/.aws/config` and `~/.aws/credentials`; it may assume a role."""
    prefix: Annotated[str, AfterValidator(_prefix)] = ""
    """What all keys begin with, such as `uploads/`; a / at its end is added."""
    info_prefix: Annotated[str, AfterValidator(_prefix)] | None = None
    """What the keys of `.info` and `.part` objects begin with, instead of `prefix`."""
    key: Annotated[str, AfterValidator(keys.checked_template)] = keys.DEFAULT
    """The key of an upload's object below `prefix`, such as `{date:%Y/%m/%d}/{id}/{filename}`."""
    part_size: plugin.Size = 50 * MIB
    """How large the parts of an upload are at best; they grow with uploads that have no room in 10,000 of them."""
    min_part_size: plugin.Size = 5 * MIB
    """Fewer bytes are no part, unless they are the last: they are kept in a `.part` object until more arrive."""
    buffer: plugin.Size = 256 * MIB
    """How many bytes of all uploads a worker holds in memory. When they are used up, clients are slowed down."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 10
    """How many parts a worker sends at once."""
    spill: Path | None = None
    """A folder that parts are gathered in instead of memory."""
    addressing: Literal["path", "virtual"] | None = None
    """Where the bucket's name stands in URLs: in the path or in the host. Not set: path where there is an `endpoint`."""
    checksums: Literal["none", "md5"] = "none"
    """md5: every body is sent with its MD5, which the server compares. It costs CPU time; buckets with object lock need it."""
    conditional_writes: Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_off)] = "auto"
    """Whether an `.info` object is replaced only if nobody else has. auto: where the server can, as a trial at start shows."""
    storage_class: str | None = None
    """Of the objects, such as INTELLIGENT_TIERING; not of `.info` objects."""
    acl: (
        Literal[
            "private",
            "public-read",
            "public-read-write",
            "authenticated-read",
            "aws-exec-read",
            "bucket-owner-read",
            "bucket-owner-full-control",
        ]
        | None
    ) = None
    """Who may do what with the objects; not set: as the bucket says."""
    encryption: Encryption | None = None
    """How the server encrypts what we store; not set: as the bucket says."""
    tags: dict[str, str] = Field(default={})
    """Tags of the objects."""
    transfer_acceleration: bool = False
    """Send through the nearest edge of AWS; the bucket must allow it."""
    dual_stack: bool = False
    """Use the endpoints of AWS that have IPv6, too."""
    proxy: Annotated[plugin.Secret, AfterValidator(_proxy)] | None = None
    """The URL of a proxy for requests to the server; not set: as HTTPS_PROXY and NO_PROXY say."""
    ca_bundle: Path | None = None
    """A PEM file with the certificates that the server's must be signed by; not set: those of the SDK."""
    verify: bool = True
    """false: take any certificate. For trials only."""
    connect_timeout: Annotated[plugin.Duration, Field(gt=0)] = 10
    """How long connecting may take."""
    read_timeout: Annotated[plugin.Duration, Field(gt=0)] = 60
    """How long the server may be silent."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 5
    """How often a request is tried at most when the server is busy or cannot be reached; between them is a pause, longer each time, in part by chance."""

    @property
    def rules(self) -> Profile:
        """The profile."""
        return PROFILES[self.profile_name]

    @property
    def profile_name(self) -> str:
        """The profile's name."""
        return self.profile or ("aws" if self.endpoint is None else "other")

    @property
    def where(self) -> str | None:
        """The URL of the server; None: the SDK knows it."""
        if self.endpoint is not None or self.rules.endpoint is None:
            return self.endpoint
        return self.rules.endpoint.format(region=self.region or self.rules.region)

    @property
    def place(self) -> str:
        """The bucket, in words."""
        return f'bucket "{self.bucket}" ' + (
            f"at {self.where}" if self.where else f"of AWS in {self.region or 'the default region'}"
        )

    @property
    def proxy_shown(self) -> str:
        """The proxy, in words and without its password."""
        return (
            "of the environment"
            if self.proxy is None
            else f"{urlsplit(self.proxy).scheme}://{self.proxy.rpartition('@')[2].rpartition('//')[2]}"
        )

    @property
    def below_info(self) -> str:
        """What the keys of `.info` and `.part` objects begin with."""
        return self.prefix if self.info_prefix is None else self.info_prefix

    @property
    def path_style(self) -> bool:
        """Whether the bucket's name stands in the path."""
        if self.addressing is not None:
            return self.addressing == "path"
        return self.rules.path_style

    @model_validator(mode="after")
    def _possible(self) -> Self:
        rules, name = self.rules, self.profile_name
        if self.endpoint is not None and urlsplit(self.endpoint).path.rpartition("/")[2] == self.bucket:
            raise ValueError("endpoint: write it without the bucket, which is added")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key belong together; set both, or none")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token needs access_key_id and secret_access_key")
        if self.aws_profile is not None and self.access_key_id is not None:
            raise ValueError("aws_profile and access_key_id both say whose credentials to use; remove one")
        if rules.endpoint is None and name != "aws" and self.endpoint is None:
            raise ValueError(f"endpoint is needed with profile: {name}")
        if rules.region_needed and self.endpoint is None and self.region is None:
            raise ValueError(f"region is needed with profile: {name}; its servers are at {rules.endpoint}")
        if (self.transfer_acceleration or self.dual_stack) and (name != "aws" or self.endpoint is not None):
            raise ValueError("transfer_acceleration and dual_stack are for profile: aws, without an endpoint")
        if self.transfer_acceleration and (self.path_style or "." in self.bucket):
            raise ValueError("transfer_acceleration needs the bucket in the host: no addressing: path, no . in its name")
        for option, can in (("tags", rules.tags), ("acl", rules.acl)):
            if getattr(self, option) and not can:
                raise ValueError(f"{option}: profile {name} cannot have any; remove it")
        if self.encryption is not None and self.encryption.algorithm != "AES256" and not rules.kms:
            raise ValueError(f"encryption: profile {name} knows AES256 only")
        if len(self.tags) > _TAGS_MOST:
            raise ValueError(f"tags: an object can have {_TAGS_MOST} at most")
        if any(not 0 < len(name) <= 128 for name in self.tags):
            raise ValueError("tags: a tag's name has 1 to 128 characters")
        if any(len(value) > 256 for value in self.tags.values()):
            raise ValueError("tags: a tag's value has 256 characters at most")
        if not 0 < self.min_part_size <= self.part_size <= rules.largest_part:
            raise ValueError(f"part_size must be at least min_part_size ({self.min_part_size}) and at most {rules.largest_part}")
        least = self.part_size if rules.uniform_parts else self.min_part_size
        if self.spill is None and self.buffer < least:
            raise ValueError(f"buffer must have room for a part: {least} bytes at least")
        return self
