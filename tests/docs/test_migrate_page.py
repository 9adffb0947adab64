"""docs/howto/migrate-from-go.md names only options that exist, and every flag that Go's tusd has."""

from __future__ import annotations

import re
from pathlib import Path

from tusd import config
from tusd.builtin.file_storage import FileStorage

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "migrate-from-go.md"
FLAGS = """
host port unix-sock base-path behind-proxy enable-h2c tls-certificate tls-key tls-mode enable-experimental-protocol disable-download
disable-termination disable-concatenation max-size disable-cors cors-allow-origin cors-allow-credentials cors-allow-methods
cors-allow-headers cors-expose-headers cors-max-age upload-dir filelock-holder-poll-interval filelock-acquirer-poll-interval dir-perms
file-perms s3-bucket s3-object-prefix s3-endpoint s3-part-size s3-min-part-size s3-max-buffered-parts s3-disable-content-hashes
s3-disable-ssl s3-concurrent-part-uploads s3-transfer-acceleration s3-log-api-calls gcs-bucket gcs-object-prefix gcs-endpoint
azure-storage azure-container-access-type azure-blob-access-tier azure-object-prefix azure-endpoint hooks-enabled-events
progress-hooks-interval hooks-dir hooks-http hooks-http-forward-headers hooks-http-retry hooks-http-backoff hooks-http-timeout
hooks-http-size-limit hooks-grpc hooks-grpc-retry hooks-grpc-backoff hooks-grpc-secure hooks-grpc-server-tls-certificate
hooks-grpc-client-tls-certificate hooks-grpc-client-tls-key hooks-grpc-forward-headers hooks-plugin expose-metrics metrics-path
expose-pprof pprof-path pprof-block-profile-rate pprof-mutex-profile-rate show-greeting version verbose show-startup-logs log-format
network-timeout shutdown-timeout acquire-lock-timeout request-completion-timeout
""".split()


def rows() -> list[tuple[list[str], str]]:
    """The flags of each row, and its second column."""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `-"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found.append((re.findall(r"`-([a-z0-9-]+)`", cells[0]), cells[1]))
    return found


def test_every_flag_has_one_row() -> None:
    named = [flag for flags, _ in rows() for flag in flags]
    assert len(named) == len(set(named))
    assert set(FLAGS) <= set(named)
    assert set(named) - set(FLAGS) == {"hooks-http-skip-verify"}  # newer than the list


def test_every_key_exists() -> None:
    keys = [key for _, cell in rows() for key in re.findall(r"`([a-z_.]+)`", cell)]
    assert len(keys) > 20
    for key in keys:
        section, _, option = key.partition(".")
        if section in ("hooks", "metrics"):
            assert not option
        elif section == "storage":
            assert not option or option in FileStorage.Options.model_fields
        else:
            model = config.SECTIONS[section]
            outer, _, inner = option.partition(".")
            assert outer in model.model_fields
            assert not inner or inner in config.CorsSection.model_fields
