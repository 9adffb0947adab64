"""What the kinds of S3 servers do differently: a name in the YAML -> defaults and rules."""

from __future__ import annotations

from dataclasses import dataclass

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


@dataclass(frozen=True, slots=True)
class Profile:
    """Rules of one kind of server. What the YAML says wins over the defaults among them."""

    endpoint: str | None = None
    """Where it is when the YAML does not say; `{region}` is replaced. None: the SDK knows, or the YAML must say."""
    region: str | None = None
    """The region when nobody says one. None: as the SDK's chain has it."""
    region_needed: bool = False
    """The endpoint cannot be known without a region."""
    path_style: bool = True
    """The bucket stands in the path of a URL, not in its host."""
    tags: bool = True
    """Objects can have tags."""
    acl: bool = True
    """Objects can have an ACL of their own."""
    kms: bool = True
    """Objects can be encrypted with a key that is named (SSE-KMS)."""
    uniform_parts: bool = False
    """All parts of an upload but the last must have one size."""
    copies_parts: bool = True
    """UploadPartCopy exists."""
    most_parts: int = 10_000
    """The highest number of a part."""
    smallest_part: int = 5 * MIB
    """Of every part but the last."""
    largest_part: int = 5 * GIB
    largest_object: int = 5 * TIB


PROFILES = {
    "aws": Profile(path_style=False),
    "minio": Profile(region="us-east-1"),
    "ceph": Profile(region="us-east-1"),
    "r2": Profile(region="auto", tags=False, acl=False, kms=False, uniform_parts=True),
    "backblaze": Profile("https://s3.{region}.backblazeb2.com", region_needed=True, tags=False, acl=False, kms=False),
    "wasabi": Profile("https://s3.{region}.wasabisys.com", region="us-east-1", kms=False),
    "scaleway": Profile("https://s3.{region}.scw.cloud", region_needed=True, path_style=False, most_parts=1000, kms=False),
    "digitalocean": Profile(
        "https://{region}.digitaloceanspaces.com", region_needed=True, path_style=False, tags=False, kms=False
    ),
    "google": Profile("https://storage.googleapis.com", region="auto", tags=False, kms=False, copies_parts=False),
    "other": Profile(region="us-east-1"),
}
"""The names for `profile`."""
