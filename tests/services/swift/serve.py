"""OpenStack Swift with its S3 interface: `python serve.py DIRECTORY SOCKET`, in the environment of requirements.txt.

Swift is meant to be four daemons, each with workers, rings made by a command and memcached. Here its proxy, account, container and
object servers are greenlets of one process: the proxy on the listening socket that it inherits, the others on free ports of
127.0.0.1, with rings of one device. Objects are files below DIRECTORY, which must be on a file system with user attributes.
"""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path

import eventlet
from eventlet import wsgi
from swift.common import utils

KEY, SECRET = "test:tester", "testing"
DEVICE = "disk"
PIPELINE = "catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth slo dlo versioned_writes symlink"
PARTS = 10_000
"""As many as S3 allows in an upload. Swift's own limit is 1,000."""
Settings = dict[str, str]


def serve(directory: Path, listening: int) -> None:
    """Serve until the process is killed."""
    eventlet.hubs.use_hub(utils.get_hub())
    utils.eventlet_monkey_patch()
    configuration = directory / "etc"
    configuration.mkdir()
    (directory / "devices" / DEVICE).mkdir(parents=True)
    common = {
        "swift_dir": str(configuration),
        "log_level": "ERROR",
        "log_address": str(directory / "no-syslog"),  # then it logs to stderr
    }
    _write(
        configuration / "swift.conf",
        {
            "swift-hash": {"swift_hash_path_prefix": "tests", "swift_hash_path_suffix": "tests"},
            "storage-policy:0": {"name": "one", "default": "yes"},
            "swift-constraints": {"max_header_size": "32768"},
        },
    )
    utils.set_swift_dir(str(configuration))  # before a module is imported that reads it
    servers = {}
    for kind in ("account", "container", "object"):
        sock = eventlet.listen(("127.0.0.1", 0), backlog=512)
        _write_ring(configuration / f"{kind}.ring.gz", sock.getsockname()[1])
        servers[kind] = sock, _storage_server(kind, directory, common)
    servers["proxy"] = _inherited(listening), _proxy(common)
    running = [eventlet.spawn(_serve, kind, configuration, *server) for kind, server in servers.items()]
    for server in running:
        server.wait()


def _storage_server(kind: str, directory: Path, common: Settings) -> dict[str, Settings]:
    return {
        "DEFAULT": {
            **common,
            "devices": str(directory / "devices"),
            "mount_check": "false",
            "disable_fallocate": "true",
            "fallocate_reserve": "0",
            "recon_cache_path": str(directory),
        },
        "pipeline:main": {"pipeline": kind},
        f"app:{kind}": {"use": f"egg:swift#{kind}"},
    }


def _proxy(common: Settings) -> dict[str, Settings]:
    filters: dict[str, Settings] = {
        "s3api": {"location": "us-east-1", "s3_acl": "false", "check_bucket_owner": "false", "max_upload_part_num": str(PARTS)},
        "slo": {"max_manifest_segments": str(PARTS), "max_manifest_size": str(32 << 20)},
        "tempauth": {"user_" + KEY.replace(":", "_"): f"{SECRET} .admin"},
        "versioned_writes": {"allow_object_versioning": "true"},
        "cache": {"use": "egg:swift#memcache", "memcache_servers": "127.0.0.1:1"},  # nobody is there: S3 does without
    }
    return {
        "DEFAULT": common,
        "pipeline:main": {"pipeline": f"{PIPELINE} proxy-server"},
        "app:proxy-server": {"use": "egg:swift#proxy", "account_autocreate": "true", "allow_account_management": "true"},
        **{f"filter:{name}": {"use": f"egg:swift#{name}", **filters.get(name, {})} for name in PIPELINE.split()},
    }


def _write(path: Path, sections: dict[str, Settings]) -> None:
    parser = configparser.RawConfigParser()
    parser.read_dict(sections)
    with path.open("w") as file:
        parser.write(file)


def _write_ring(path: Path, port: int) -> None:
    """All is on one device, in one copy."""
    from swift.common.ring import RingBuilder

    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
    address = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "device": DEVICE, "weight": 1, "meta": "", **address})
    builder.rebalance()
    builder.get_ring().save(str(path))


def _inherited(number: int) -> eventlet.greenio.GreenSocket:
    from eventlet.green import socket

    return socket.socket(fileno=number)


def _serve(kind: str, configuration: Path, sock: eventlet.greenio.GreenSocket, sections: dict[str, Settings]) -> None:
    """What Swift's run_server does, which would change the event loop beneath the others."""
    from swift.common.constraints import MAX_REQUEST_LINE
    from swift.common.wsgi import SwiftHttpProtocol, loadapp

    path = configuration / f"{kind}.conf"
    _write(path, sections)
    try:
        wsgi.server(
            sock,
            loadapp(str(path), global_conf={"log_name": kind}),
            utils.NullLogger(),
            protocol=SwiftHttpProtocol,
            capitalize_response_headers=False,  # SDKs look for "ETag"
            url_length_limit=MAX_REQUEST_LINE,
        )
    except BaseException as error:
        print(f"{kind}: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
