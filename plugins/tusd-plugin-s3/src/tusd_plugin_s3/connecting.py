"""Making the SDK's client, and trying at start what uploads will need."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3.session
import botocore.session
import urllib3
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, NoCredentialsError
from botocore.handlers import add_expect_header
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from tusd import plugin

from .bucket import Bucket
from .calling import DOWNLOAD_THREADS, SMALL_THREADS
from .cures import explain
from .options import Options
from .quick import Place, Quick, place_of
from .signing import Keys
from .trial import try_out

if TYPE_CHECKING:  # the stubs are no dependency
    from mypy_boto3_s3 import S3Client


@asynccontextmanager
async def connect(options: Options, worker: plugin.Worker) -> AsyncIterator[Bucket]:
    """The bucket, after it was tried out. Raises `StorageUnavailable`, which says what is wrong, where, and the cure."""
    if options.spill is not None:
        _try_folder(options.spill)
    session = botocore.session.Session()
    client, origin = await plugin.in_thread(lambda: make_client(options, session))
    if not options.verify:
        worker.logger.warning("storage.verify is false: anybody on the way to the server can read and change what is sent")
    bucket = Bucket(client, options, worker.metrics, worker.logger)
    try:
        await try_out(bucket, options, origin, worker.logger)
        bucket.quick = await _quick(client, session, options)  # not before: the trial tells errors as the SDK has them
        yield bucket
    finally:
        await bucket.close()


def _try_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise plugin.StorageUnavailable(
            f"storage.spill: {folder} cannot be written: {error.strerror}; give this server's user permission, or set another folder"
        ) from error


def make_client(options: Options, core: botocore.session.Session | None = None) -> tuple[S3Client, str]:
    """The SDK's client, which all threads of a worker share; and whose credentials it uses. `core`: the SDK's session, a new one if it is None.
    Raises `StorageUnavailable`."""
    if options.verify and options.ca_bundle is not None:
        try:
            ssl.create_default_context(cafile=options.ca_bundle)
        except OSError as error:  # of which ssl.SSLError is one
            raise plugin.StorageUnavailable(f"storage.ca_bundle: {options.ca_bundle} cannot be used: {error.strerror}") from error
    try:
        session = boto3.session.Session(botocore_session=core, profile_name=options.aws_profile)
        if options.access_key_id is not None:
            return _client(session, options), "storage.access_key_id"
        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        return _client(session, options), f"the AWS SDK ({credentials.method})"
    except (BotoCoreError, ValueError) as error:
        raise plugin.StorageUnavailable(f"{options.place}: {explain(error, 'connecting', options, '')}") from error


def _client(session: boto3.session.Session, options: Options) -> S3Client:
    if not options.verify:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # one for each request; the log has one for all
    s3: Any = {
        "addressing_style": "path" if options.path_style else "virtual",
        "payload_signing_enabled": False,
        "use_accelerate_endpoint": options.transfer_acceleration,
    }
    more: dict[str, Any] = {"use_dualstack_endpoint": True} if options.dual_stack else {}
    if options.proxy is not None:
        more["proxies"] = {"http": options.proxy, "https": options.proxy}
    # AWS_REGION is what containers of AWS and Go's SDK have; this SDK looks at AWS_DEFAULT_REGION alone.
    region = options.region or os.environ.get("AWS_REGION") or session.region_name or options.rules.region
    client = session.client(
        "s3",
        region_name=region,
        endpoint_url=options.where,
        aws_access_key_id=options.access_key_id,
        aws_secret_access_key=options.secret_access_key,
        aws_session_token=options.session_token,
        verify=str(options.ca_bundle) if options.verify and options.ca_bundle else (None if options.verify else False),
        config=Config(
            s3=s3,
            signature_version="s3v4",
            retries={"mode": "standard", "total_max_attempts": options.attempts},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=options.connect_timeout,
            read_timeout=options.read_timeout,
            max_pool_connections=options.concurrency + SMALL_THREADS + 4 * DOWNLOAD_THREADS,
            tcp_keepalive=True,
            user_agent_extra="tusd-plugin-s3",
            **more,
        ),
    )
    # Of everything that is no bytearray the SDK would ask first whether it may be sent (Expect: 100-continue), and wait a second for servers
    # that do not answer that.
    client.meta.events.unregister("before-call.s3", add_expect_header)
    return client


def place(client: S3Client, options: Options) -> Place | None:
    """Where small requests can go without the SDK; None where only it knows how: access points, directory buckets, proxies."""
    name = options.bucket
    if options.proxy is not None or name.startswith("arn:") or name.endswith("--x-s3"):
        return None
    url = client.generate_presigned_url("put_object", Params={"Bucket": name, "Key": "k"})
    return None if get_environ_proxies(url) else place_of(url, "k")


async def _quick(client: S3Client, session: botocore.session.Session, options: Options) -> Quick | None:
    """With the credentials and certificates of the client."""

    def found() -> tuple[Place | None, Any, ssl.SSLContext | bool]:
        if options.access_key_id is not None and options.secret_access_key is not None:
            token = options.session_token
            credentials: Any = Credentials(options.access_key_id, options.secret_access_key, token)
        else:
            credentials = session.get_credentials()
        there = place(client, options)
        if there is None or there.origin.startswith("http:"):
            return there, credentials, True
        if not options.verify:
            return there, credentials, False
        bundle: Any = options.ca_bundle or session.get_config_variable("ca_bundle") or get_cert_path(True)
        return there, credentials, ssl.create_default_context(cafile=bundle)

    try:
        where, credentials, tls = await plugin.in_thread(found)
    except (BotoCoreError, OSError):  # what the SDK got along without, or got meanwhile
        return None

    def keys() -> Keys:
        frozen = credentials.get_frozen_credentials()
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)

    return None if where is None else Quick(where, keys, tls, options.connect_timeout, options.read_timeout)
