"""Which operation of S3 a request is, by its method, path, query and headers. Paths begin with the bucket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

# The parameter that says what is meant, of a bucket and of an object; where several are there the first counts.
BUCKET = {
    "GET": {
        "list-type": "ListObjectsV2",
        "uploads": "ListMultipartUploads",
        "versions": "ListObjectVersions",
        "location": "GetBucketLocation",
        "versioning": "GetBucketVersioning",
        "lifecycle": "GetBucketLifecycleConfiguration",
        "policy": "GetBucketPolicy",
        "": "ListObjects",
    },
    "HEAD": {"": "HeadBucket"},
    "PUT": {
        "versioning": "PutBucketVersioning",
        "lifecycle": "PutBucketLifecycleConfiguration",
        "policy": "PutBucketPolicy",
        "": "CreateBucket",
    },
    "POST": {"delete": "DeleteObjects"},
    "DELETE": {"": "DeleteBucket"},
}
OBJECT = {
    "GET": {
        "uploadId": "ListParts",
        "tagging": "GetObjectTagging",
        "acl": "GetObjectAcl",
        "attributes": "GetObjectAttributes",
        "": "GetObject",
    },
    "HEAD": {"": "HeadObject"},
    "PUT": {"uploadId": "UploadPart", "tagging": "PutObjectTagging", "acl": "PutObjectAcl", "": "PutObject"},
    "POST": {"uploads": "CreateMultipartUpload", "uploadId": "CompleteMultipartUpload"},
    "DELETE": {"uploadId": "AbortMultipartUpload", "tagging": "DeleteObjectTagging", "": "DeleteObject"},
}
COPIES = {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}
"""What becomes of an operation that names another object as its source."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a request asks for."""

    operation: str
    """S3's name, as `UploadPart`; the method alone where the request is none of S3's that are known here."""
    bucket: str = ""
    key: str = ""
    upload: str = ""
    """The multipart upload's id."""
    part: int | None = None


Names = Callable[[str, str, Mapping[str, str], Mapping[str, str]], Named]
"""Tells what a request is by its method, decoded path, query and headers with names in lower case."""


def s3_request(method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Named:
    """Of a server whose buckets are the first segment of the path."""
    bucket, _, key = path.removeprefix("/").partition("/")
    if not bucket:
        return Named("ListBuckets" if method == "GET" else method)
    meanings = (OBJECT if key else BUCKET).get(method, {})
    operation = next((name for parameter, name in meanings.items() if not parameter or parameter in query), method)
    if "x-amz-copy-source" in headers:
        operation = COPIES.get(operation, operation)
    part = query.get("partNumber", "")
    return Named(operation, bucket, key, query.get("uploadId", ""), int(part) if part.isdecimal() else None)


def nothing_known(method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Named:
    """For servers that do not speak S3: the operation is the method, and rules look at the path and the query."""
    return Named(method)
