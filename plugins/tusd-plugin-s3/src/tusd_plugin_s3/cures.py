"""What the errors of a start mean, and what helps."""

from __future__ import annotations

import re
from typing import Any

from botocore import exceptions as sdk
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from .options import Options
from .reasons import causes, code_of, reason_of, status_of

ACTIONS = {
    "put_object": ("s3:PutObject",),
    "get_object": ("s3:GetObject",),
    "head_object": ("s3:ListBucket",),
    "list_objects": ("s3:ListBucket",),
    "delete_object": ("s3:DeleteObject",),
    "create_multipart_upload": ("s3:PutObject",),
    "upload_part": ("s3:PutObject",),
    "upload_part_copy": ("s3:PutObject", "s3:GetObject"),
    "list_parts": ("s3:ListMultipartUploadParts",),
    "complete_multipart_upload": ("s3:PutObject",),
    "abort_multipart_upload": ("s3:AbortMultipartUpload",),
}
"""The IAM actions that each request needs; HEAD that of a listing, too, because without it a key that is not there is answered by 403."""
_EXPECTED = re.compile(r"expecting '([a-z0-9-]+)'")


class NoS3(Exception):
    """An answer that is none."""


def needed(options: Options) -> set[str]:
    """The IAM actions that the credentials must be allowed, with these options."""
    found = {action for actions in ACTIONS.values() for action in actions}
    found |= {action for _, action in _more(options)}
    return found


def explain(error: BaseException, operation: str, options: Options, origin: str) -> str:
    """What is wrong, and the cure: one line. `origin`: whose credentials they are."""
    if isinstance(error, ClientError):
        return _answered(error, operation, options, origin)
    return _unanswered(error, options)


def _answered(error: ClientError, operation: str, options: Options, origin: str) -> str:
    code, status, found = code_of(error), status_of(error), error.response.get("Error", {})
    region = _region(error)
    if code == "NoSuchBucket":
        return "there is no such bucket; make it, or correct storage.bucket"
    if code in ("InvalidAccessKeyId", "InvalidClientTokenId"):
        return f"the server does not know the access key of {origin}; correct it"
    if code == "SignatureDoesNotMatch":
        return f"the access key and the secret of {origin} do not belong together; correct them"
    if code in ("ExpiredToken", "ExpiredTokenException", "RequestExpired"):
        return f"the credentials of {origin} have expired; get new ones"
    if code in ("InvalidToken", "InvalidSecurity"):
        return f"the server does not take the session token of {origin}; correct it, or leave it out"
    if code == "RequestTimeTooSkewed":
        server = found.get("ServerTime")
        return f"this machine's clock is wrong{f' (the server has {server})' if server else ''}; set it, for example by NTP"
    if region or code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        return wrong_region(region)
    if code == "AccessControlListNotSupported":
        return "the bucket does not allow ACLs; remove storage.acl"
    if code == "InvalidStorageClass":
        return f"the server has no storage class {options.storage_class}; correct storage.storage_class"
    if code.startswith("KMS."):
        return f"the key of storage.encryption cannot be used ({reason_of(error)}); correct storage.encryption.kms_key"
    if code in ("AccessDenied", "AllAccessDisabled", "Forbidden", "403", "UnauthorizedAccess"):
        return _denied(operation, options, origin)
    if code == "NotImplemented" or status == 501:
        names = [name for name in ("tags", "acl", "storage_class", "encryption") if getattr(options, name)]
        return f"the server cannot do what {operation} asks for{_remove(names)}"
    if status in (404, 405) and code in ("404", "405", "NotFound", "MethodNotAllowed"):
        return "what answers there is no S3 server, or has its S3 API elsewhere; correct storage.endpoint"
    if code.isdigit():
        return f"its answer to {operation} is none of S3 ({reason_of(error)}); is it an S3 server, and is it well?"
    return f"{operation} was refused: {reason_of(error)}"


def _unanswered(error: BaseException, options: Options) -> str:
    chain = list(causes(error))
    names = {type(one).__name__ for one in chain}
    reason = reason_of(error) if isinstance(error, BotoCoreError) else str(error)
    if isinstance(error, NoS3 | ResponseParserError):
        return "what answers there is no S3 server, or has its S3 API elsewhere; correct storage.endpoint"
    if isinstance(error, sdk.NoCredentialsError):
        return "there are no credentials; set storage.access_key_id and secret_access_key, or give them as the AWS SDK finds them"
    if isinstance(error, sdk.ProfileNotFound):
        return f"there is no profile {options.aws_profile} in ~/.aws/config; correct storage.aws_profile"
    if isinstance(error, sdk.ProxyConnectionError):
        return f"the proxy {options.proxy_shown} cannot be used ({reason}); correct storage.proxy"
    if "NameResolutionError" in names or "gaierror" in names:
        return "the server's name is not known; correct storage.endpoint or storage.region, or the name service"
    if any(isinstance(one, ConnectionRefusedError) for one in chain) or "Connection refused" in reason:
        return "nothing listens there; start the server, or correct storage.endpoint"
    if isinstance(error, sdk.SSLError):
        plain = "WRONG_VERSION_NUMBER" in reason or "wrong version number" in reason
        cure = "write http:// in storage.endpoint" if plain else "set storage.ca_bundle if you trust it"
        return f"its TLS cannot be used ({reason}); {cure}"
    if isinstance(error, sdk.ConnectTimeoutError):
        return f"connecting took longer than {options.connect_timeout:g} s; is a firewall between, or storage.proxy needed?"
    if isinstance(error, sdk.ReadTimeoutError):
        return f"it was silent for {options.read_timeout:g} s; is it an S3 server, is it overloaded?"
    if isinstance(error, sdk.CredentialRetrievalError | sdk.MetadataRetrievalError | sdk.PartialCredentialsError):
        return f"no credentials were to be had ({reason}); correct what the AWS SDK is told, or set storage.access_key_id"
    if isinstance(error, sdk.ConnectionClosedError):
        return "it closed the connection without an answer; is it an S3 server, and is the scheme of storage.endpoint right?"
    return reason


def wrong_region(region: str) -> str:
    """The bucket is elsewhere."""
    if not region:
        return "the bucket is in another region; correct storage.region"
    return f"the bucket is in another region; set storage.region: {region}"


def _region(error: ClientError) -> str:
    """The region that the server says the bucket is in, if this error is about that."""
    found: Any = error.response.get("Error", {})
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    expected = _EXPECTED.search(str(found.get("Message", "")))
    if "region" not in str(found.get("Message", "")).lower() and status_of(error) != 301:
        return ""
    return str(found.get("Region") or headers.get("x-amz-bucket-region") or (expected[1] if expected else ""))


def _denied(operation: str, options: Options, origin: str) -> str:
    actions = list(ACTIONS.get(operation, (operation,)))
    more = [(name, action) for name, action in _more(options) if operation == "create_multipart_upload"]
    if operation == "head_object":
        return (
            f"without s3:ListBucket the server answers 403 where there is no object, so nothing could be told of it; "
            f"allow {origin} s3:ListBucket on the bucket"
        )
    text = f"{operation} was refused; allow {origin} {' and '.join(actions)} (docs/howto/s3.md has a whole policy)"
    if more:
        text += f"; and for storage.{', '.join(dict.fromkeys(name for name, _ in more))} also " + ", ".join(a for _, a in more)
    return text


def _more(options: Options) -> list[tuple[str, str]]:
    """(option, action) of what only these options need."""
    found = []
    if options.tags:
        found.append(("tags", "s3:PutObjectTagging"))
    if options.acl:
        found.append(("acl", "s3:PutObjectAcl"))
    if options.encryption is not None and options.encryption.algorithm != "AES256":
        found += [("encryption", "kms:GenerateDataKey"), ("encryption", "kms:Decrypt")]
    return found


def _remove(names: list[str]) -> str:
    return f"; remove storage.{', storage.'.join(names)}" if names else ""
