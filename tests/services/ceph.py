"""Ceph's S3: a monitor, a store in memory and the gateway, from Debian's packages. A real store with quirks of its own.

Checks signatures. If-None-Match is atomic for objects and ignored by CompleteMultipartUpload; the ETag in that answer is empty, and
an upload that is gone gets a 500 there. If-Match wants the ETag without its quotes. A wrong CRC32 or SHA-256 is not noticed.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from tests.services.keeper import CannotStart, Children, answers
from tests.services.servers import S3Server
from tusd.testing.server import free_port

COMMANDS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
PACKAGES = "ceph-mon ceph-osd radosgw ceph-common"
KEY, SECRET = "testtest", "testtest123"
MEMORY = 4 << 30
"""Bytes of objects it holds: what is deleted is free again."""
TRIES = 3
"""Its daemons open their ports themselves, and somebody may have taken one of the two that we choose meanwhile."""


def start(files: Path, children: Children) -> S3Server:
    """Start it; all of its files are below `files`."""
    for left in reversed(range(TRIES)):
        try:
            return _start(files / f"try-{left}", children)
        except CannotStart:
            children.end()
            if not left:
                raise
    raise AssertionError("one of them returned or raised")


def _start(files: Path, children: Children) -> S3Server:
    for name in ("mon", "osd", "run", "log"):
        (files / name).mkdir(parents=True)
    (files / "keyring").touch()
    monitor, gateway = free_port(), free_port()
    cluster, osd = str(uuid.uuid4()), str(uuid.uuid4())
    (files / "ceph.conf").write_text(_configuration(files, cluster, monitor, gateway))
    use = ("-c", str(files / "ceph.conf"))
    address = f"[v2:127.0.0.1:{monitor}]"
    children.run("monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", cluster, str(files / "monmap"))
    children.run("ceph-mon", *use, "--mkfs", "-i", "a", "--monmap", str(files / "monmap"), "--keyring", str(files / "keyring"))
    children.spawn("ceph-mon", *use, "-i", "a", "-f")
    children.run("ceph", *use, "--connect-timeout", "20", "osd", "new", osd, "0")
    children.run("ceph-osd", *use, "-i", "0", "--mkfs", "--osd-uuid", osd)
    children.spawn("ceph-osd", *use, "-i", "0", "-f")
    user = ("--uid=test", "--display-name=test", f"--access-key={KEY}", f"--secret-key={SECRET}")
    children.run("radosgw-admin", *use, "user", "create", *user)
    children.spawn("radosgw", *use, "-n", "client.rgw", "-f")
    endpoint = f"http://127.0.0.1:{gateway}"
    children.until(lambda: answers(endpoint))
    return S3Server(endpoint, KEY, SECRET, region="us-east-1")


def _configuration(files: Path, cluster: str, monitor: int, gateway: int) -> str:
    """One node without authentication between its daemons, on loopback, tuned to start in a second."""
    return f"""
[global]
fsid = {cluster}
mon host = [v2:127.0.0.1:{monitor}/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
run dir = {files}/run
admin socket = {files}/run/$name.asok
pid file = {files}/run/$name.pid
log file = {files}/log/$name.log
crash dir = {files}/log
mon data = {files}/mon
osd data = {files}/osd
keyring = {files}/keyring

# Without authentication the modes must be crc: the default of the gateway is "secure", which needs it.
auth cluster required = none
auth service required = none
auth client required = none
auth supported = none
ms mon client mode = crc
ms mon service mode = crc
ms client mode = crc
ms cluster mode = crc
ms service mode = crc

# One copy on one disk, and no waiting for others: these two intervals are 10 of 11 seconds.
paxos propose interval = 0.01
paxos min wait = 0.01
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 1
osd objectstore = memstore
memstore device bytes = {MEMORY}
osd class load list = *
osd class default list = *

[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw thread pool size = 32
rgw data = {files}/run
rgw enable usage log = false
rgw enable lc threads = false
rgw run sync thread = false
rgw dynamic resharding = false
rgw override bucket index max shards = 1
"""
