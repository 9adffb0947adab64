"""LocalStack's S3 and nothing else: `python serve.py DIRECTORY SOCKET`, in the environment of requirements.txt.

LocalStack's own entry point listens on all interfaces, writes below /tmp and /var/lib/localstack whatever it is told, makes a
TLS key and starts services by plugins it caches in the home directory. So none of it is used: this serves LocalStack's gateway
with one service in it, on the listening socket that it inherits, and keeps all it writes below DIRECTORY.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile

THREADS = 64
"""Requests at once. Each part of an upload in flight takes one."""


def serve(directory: str, listening: int) -> None:
    """Serve until the process is killed. Objects are in unlinked files below `directory`: nothing outlives the process."""
    tempfile.tempdir = directory
    # Read by localstack.config when it is imported.
    os.environ |= {"FILESYSTEM_ROOT": directory, "TMPDIR": directory, "XDG_CACHE_HOME": directory, "HOME": directory}
    os.environ |= {"SERVICES": "s3", "DISABLE_EVENTS": "1", "SKIP_SSL_CERT_DOWNLOAD": "1", "DNS_ADDRESS": "0", "LS_LOG": "error"}

    from localstack.aws.app import LocalstackAwsGateway
    from localstack.services.plugins import Service, ServiceManager
    from localstack.services.s3.provider import S3Provider
    from localstack.services.s3.storage.ephemeral import EphemeralS3ObjectStore
    from rolo.serving.twisted import TwistedGateway
    from twisted.internet import reactor

    services = ServiceManager()
    services.add_service(Service.for_provider(S3Provider(EphemeralS3ObjectStore(os.path.join(directory, "objects")))))
    services.require("s3")  # starts it
    reactor.suggestThreadPoolSize(THREADS)
    reactor.adoptStreamPort(listening, socket.AF_INET, TwistedGateway(LocalstackAwsGateway(services)))
    reactor.run()


if __name__ == "__main__":
    serve(os.path.abspath(sys.argv[1]), int(sys.argv[2]))
