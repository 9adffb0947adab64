"""The configuration: one YAML file -> `Config`. Nothing is opened and no plugin imported here.

Options of the core are pydantic models whose docstrings are the reference; options of plugins stay as they were written until
the registry reads them. Every error says where it stands and how to cure it, and all of them are reported at once.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, WithJsonSchema, field_validator

from .errors import ConfigError, StartError
from .listen import AdminListens, Listen, Listens
from .model import Extension
from .options import did_you_mean, option_errors
from .plugin import Duration, Options, Size
from .protocol.cors import Cors
from .protocol.rules import Policy
from .protocol.urls import Origins
from .yaml_marks import OptionPath, Places, dotted, read_document

SEAMS = ("storage", "locking", "limiting", "hooks", "metrics", "plugins")
"""The sections that name plugins."""
SINGLE_SEAMS = ("storage", "locking")
"""Those that name one plugin; the others name a list."""


class StartErrors(StartError):
    """All that is wrong, one line each."""

    def __init__(self, errors: Iterable[StartError]) -> None:
        self.errors: tuple[StartError, ...] = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


# --- values


def _base_path(text: str) -> str:
    segments = text.strip("/").split("/") if text.strip("/") else []
    if not all(re.fullmatch(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+", part) and part not in (".", "..") for part in segments):
        raise ValueError("not a path; write letters, digits and -._~ between slashes, such as /files/")
    return "/".join(("", *segments, ""))


def _public_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", text) or re.search("[?#]", text):
        raise ValueError("not the base of URLs; write https://up.example.com/files/")
    return text.rstrip("/") + "/"


def _network(text: str) -> str:
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        raise ValueError("not a network; write 10.0.0.0/8, or one address") from None


def _host(text: str) -> str:
    if not re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?", text, re.ASCII):
        raise ValueError("not a host; write up.example.com, or up.example.com:8080")
    return text.lower()


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}; for any origin write '.*'") from None
    return text


def _patterns(value: object) -> object:
    if isinstance(value, str):
        raise ValueError("must be a list of regular expressions, such as ['https://example\\.com']; for any origin write ['.*']")
    return value


def _positive(value: float | None) -> float | None:
    if value == 0:
        raise ValueError("0 would refuse every upload; leave it out for no limit")
    return value


def _some(value: float | None) -> float | None:
    if value == 0:
        raise ValueError("0 is no limit; leave it out instead")
    return value


def _token(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", text):  # RFC 9110 section 5.6.2
        raise ValueError("not the name of a header or method")
    return text


def _workers(value: object) -> object:
    if value == "auto":
        return value
    if isinstance(value, str) and re.fullmatch(r"\d+", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("not a number of processes; write 1, 2, 3 ... or auto")
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _once(values: tuple[Extension, ...]) -> tuple[Extension, ...]:
    return tuple(dict.fromkeys(values))


BasePath = Annotated[str, AfterValidator(_base_path)]
PublicUrl = Annotated[str, AfterValidator(_public_url)]
Network = Annotated[str, AfterValidator(_network)]
Host = Annotated[str, AfterValidator(_host)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Token = Annotated[str, AfterValidator(_token)]
Workers = Annotated[
    int | Literal["auto"],
    BeforeValidator(_workers),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}),
]


# --- sections


class Section(Options):
    """A section of the file. The docstrings of its fields are what the documentation says of them."""


class CorsSection(Section):
    """What browsers on other sites may do."""

    enabled: bool = True
    """Answer the CORS requests of browsers at all."""
    allow_origins: Annotated[tuple[Pattern, ...], BeforeValidator(_patterns)] = (".*",)
    """Regular expressions; one of them has to match the whole `Origin`, such as `https://example\\.com`."""
    allow_credentials: bool = False
    """Let browsers send cookies and client certificates."""
    allow_methods: tuple[Token, ...] = ()
    """Methods allowed besides those of tus."""
    allow_headers: tuple[Token, ...] = ()
    """Request headers allowed besides those that tus clients send."""
    expose_headers: tuple[Token, ...] = ()
    """Response headers that scripts may read besides those of tus."""
    max_age: Duration = 86400
    """For how long a browser may remember a preflight answer."""


class ServerSection(Section):
    """How the server is reached, and its processes."""

    listen: Listens = (Listen(address="0.0.0.0:1080"),)
    """Where to listen: an address such as `host:port` or `unix:/path.sock`, a mapping with more, or a list of these."""
    admin_listen: AdminListens = None
    """Where to listen for operators, written like `listen`. Not set: nowhere."""
    base_path: BasePath = "/files/"
    """The path that uploads are created at; their URLs lie below it."""
    public_url: PublicUrl | None = None
    """The base of all upload URLs as clients see it, such as `https://up.example.com/files/`. Not set: taken from each request."""
    behind_proxy: bool = False
    """Believe `Forwarded` and `X-Forwarded-*` headers that come from `trusted_proxies`."""
    trusted_proxies: tuple[Network, ...] = (
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",
    )
    """Networks of proxies that are believed when `behind_proxy` is on. Whoever connects through a unix socket is always trusted."""
    allowed_hosts: tuple[Host, ...] = ()
    """Hosts that upload URLs may name; other requests are refused. Empty: any."""
    workers: Workers = 1
    """Processes that share the socket; `auto`: one for each CPU."""
    read_timeout: Annotated[Duration, Field(gt=0)] = 60
    """How long to wait for the next bytes of a body. What arrived is kept."""
    min_transfer_rate: Annotated[Size | None, AfterValidator(_some)] = None
    """The fewest bytes a second that a body may bring, on average over `read_timeout`. Only waiting for the client counts. What arrived is kept. Not set: any."""
    write_timeout: Annotated[Duration, Field(gt=0)] = 60
    """How long a client may take nothing of its answer, such as a download, before the connection is ended."""
    header_timeout: Annotated[Duration, Field(gt=0)] = 30
    """How long a client may take to send the head of a request, counted from its first byte; for the first one from the connection's beginning."""
    keepalive_timeout: Duration = 75
    """How long an idle connection stays open."""
    shutdown_timeout: Duration = 10
    """How long running requests have to end when the server stops or reloads. At a stop appends are interrupted at once, at a reload when the time is nearly over; their bytes are kept."""
    run_directory: Path = Path("./run")
    """For files that workers share while the server runs."""
    max_header_size: Annotated[Size, Field(ge=1024)] = 64 * 1024
    """The most that one header line may hold."""
    max_headers: Annotated[int, Field(ge=32, le=10_000)] = 128
    """The most header lines that a request may have."""
    max_head_size: Annotated[Size, Field(ge=4096)] = 256 * 1024
    """The most that the head of a request may hold in all; one that arrives in one piece may be that piece longer."""
    max_connections: Annotated[int | None, Field(ge=1)] = None
    """The most connections at once, shared out evenly over the workers. Requests on others are answered 503 (HEAD: 423). Not set: any number."""
    index: bool = True
    """Say at `GET /` what this is and where uploads go."""
    loop: Literal["auto", "uvloop", "asyncio"] = "auto"
    """The event loop; `auto`: uvloop where it is installed."""
    cors: CorsSection = CorsSection()
    """What browsers on other sites may do."""

    @property
    def listens_with_tls(self) -> bool:
        """Whether any listener speaks TLS."""
        return any(listen.tls for listen in (*self.listen, *(self.admin_listen or ())))

    @property
    def processes(self) -> int:
        """`workers` as a number."""
        return (os.cpu_count() or 1) if self.workers == "auto" else self.workers

    @property
    def connections_each(self) -> int | None:
        """Each process's share of `max_connections`, rounded up."""
        return None if self.max_connections is None else -(-self.max_connections // self.processes)


class UploadsSection(Section):
    """What may be uploaded, and what else clients may do."""

    max_size: Annotated[Size | None, AfterValidator(_positive)] = None
    """The most bytes that one upload may have. Not set: no limit."""
    expire_after: Annotated[Duration | None, AfterValidator(_positive)] = None
    """How long after its last byte an unfinished upload is given up and removed; clients are told when. Not set: never."""
    expire_finished_after: Annotated[Duration | None, AfterValidator(_positive)] = None
    """How long after its last byte a finished upload is removed. Not set: never."""
    sweep_interval: Annotated[Duration, Field(gt=0)] = 60
    """How often uploads that have expired are looked for and removed; they are 404 before that already."""
    remove_parts: bool = False
    """Remove the parts of a final upload once it is complete."""
    extensions: Annotated[tuple[Extension, ...], AfterValidator(_once)] = tuple(Extension)
    """The extensions of tus that are offered, as far as the storage can do them. `[]`: none."""
    downloads: bool = True
    """Answer GET with the bytes of complete uploads."""
    unfinished_downloads: bool = False
    """Answer GET also with what has arrived of uploads that are not complete."""
    max_metadata_size: Size = 16 * 1024
    """The most characters that `Upload-Metadata` may have."""
    lock_timeout: Duration = 20
    """How long a request waits for another one on the same upload to let go."""
    concatenation_timeout: Duration = 10
    """How long a request waits for a concatenation; afterwards it goes on in the background."""
    progress_interval: Annotated[Duration, Field(gt=0)] = 1
    """How often post-receive hooks are told of an upload that receives bytes."""


class ProtocolSection(Section):
    """What is spoken beside tus 1.0."""

    ietf: bool = True
    """Speak the IETF's draft of resumable uploads too, at the same URLs, in its interop versions 3 to 8."""
    informational: Literal["auto", "never"] = "auto"
    """Send 104 (Upload Resumption Supported) to clients of the draft that ask for it. `never`: behind a proxy that cannot pass it on."""
    max_append_size: Annotated[Size | None, AfterValidator(_positive)] = None
    """The most bytes that one request of the draft may carry; clients are told and divide their uploads. Not set: no limit."""
    min_append_size: Annotated[Size | None, AfterValidator(_positive)] = None
    """The fewest bytes that a request of the draft may carry, unless it is empty or the last. Not set: no limit."""

    @field_validator("min_append_size")
    @classmethod
    def _fits(cls, value: int | None, info: ValidationInfo) -> int | None:
        most = info.data.get("max_append_size")
        if value is not None and most is not None and value > most:
            raise ValueError(
                f"more than protocol.max_append_size, {most} bytes: no request could be both; lower this or raise that"
            )
        return value


class HealthSection(Section):
    """What `/healthz` and `/readyz` tell."""

    details: bool = False
    """Tell everybody as JSON which backend fails, and why. Not set: one word. The admin listener always tells."""


class DebugSection(Section):
    """For finding out what a running server does."""

    profile: bool = False
    """Answer `/debug/profile?seconds=10` on the admin listener with a profile of the process."""


class LoggingSection(Section):
    """What is written to standard error."""

    format: Literal["text", "json"] = "text"
    """`text` for people, `json` for machines."""
    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    """The least important messages that are shown."""
    requests: bool = True
    """One line for each request, if `level` is `info` or `debug`. Answers 200 of `/healthz`, `/readyz` and `/metrics` have none."""
    full_upload_ids: bool = False
    """Write whole upload ids. Whoever knows one can use the upload, so the log has their beginnings only."""


SECTIONS: Mapping[str, type[Section]] = types.MappingProxyType(
    {
        "server": ServerSection,
        "uploads": UploadsSection,
        "protocol": ProtocolSection,
        "health": HealthSection,
        "logging": LoggingSection,
        "debug": DebugSection,
    }
)


@dataclass(frozen=True, slots=True)
class PluginEntry:
    """One place in the file that names a plugin."""

    use: str
    options: Mapping[str, object] = field(default_factory=dict)
    """What stands beside `use`, not yet validated."""
    path: OptionPath = ()
    """Where: `("storage",)` or `("hooks", 1)`."""
    places: Places = field(default_factory=Places)

    @property
    def label(self) -> str:
        """What logs and errors call it: `storage:file`, `hooks[1]:http`."""
        return f"{dotted(self.path)}:{self.use}"

    def error(self, path: OptionPath, what: str) -> ConfigError:
        """An error of the option at `path` within this entry."""
        return self.places.error((*self.path, *path), what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration."""

    server: ServerSection = field(default_factory=ServerSection)
    uploads: UploadsSection = field(default_factory=UploadsSection)
    protocol: ProtocolSection = field(default_factory=ProtocolSection)
    health: HealthSection = field(default_factory=HealthSection)
    logging: LoggingSection = field(default_factory=LoggingSection)
    debug: DebugSection = field(default_factory=DebugSection)
    storage: PluginEntry = PluginEntry("file", path=("storage",))
    locking: PluginEntry = PluginEntry("file", path=("locking",))
    limiting: tuple[PluginEntry, ...] = ()
    hooks: tuple[PluginEntry, ...] = ()
    metrics: tuple[PluginEntry, ...] = (PluginEntry("prometheus", path=("metrics", 0)),)
    plugins: tuple[PluginEntry, ...] = ()
    source: str = "defaults"
    """The file's name, or `defaults`."""
    directory: Path = Path()
    """The file's folder; one-file plugins and secret files are found from here."""
    places: Places = field(default_factory=Places)

    def entries(self, seam: str) -> tuple[PluginEntry, ...]:
        """The plugins that a section names, in order."""
        found: PluginEntry | tuple[PluginEntry, ...] = getattr(self, seam)
        return (found,) if isinstance(found, PluginEntry) else found

    def policy(self) -> Policy:
        """What the operator allows."""
        uploads = self.uploads
        return Policy(
            max_size=uploads.max_size,
            extensions=frozenset(uploads.extensions),
            downloads=uploads.downloads,
            unfinished_downloads=uploads.unfinished_downloads,
            max_metadata_size=uploads.max_metadata_size,
            expire_after=uploads.expire_after,
            expire_finished_after=uploads.expire_finished_after,
            sweep_interval=uploads.sweep_interval,
            remove_parts=uploads.remove_parts,
            progress_interval=uploads.progress_interval,
            lock_timeout=uploads.lock_timeout,
            concatenation_timeout=uploads.concatenation_timeout,
            ietf=self.protocol.ietf,
            max_append_size=self.protocol.max_append_size,
            min_append_size=self.protocol.min_append_size,
        )

    def origins(self) -> Origins:
        """Where the server is, seen from its clients."""
        server = self.server
        return Origins(
            base_path=server.base_path,
            public_url=server.public_url,
            behind_proxy=server.behind_proxy,
            trusted_proxies=server.trusted_proxies,
            allowed_hosts=frozenset(server.allowed_hosts),
        )

    def cors(self) -> Cors:
        """What browsers on other sites may do."""
        cors = self.server.cors
        return Cors(
            enabled=cors.enabled,
            allow_origins=cors.allow_origins,
            allow_credentials=cors.allow_credentials,
            allow_methods=cors.allow_methods,
            allow_headers=cors.allow_headers,
            expose_headers=cors.expose_headers,
            max_age=int(cors.max_age),
        )


# --- loading


def read_config(path: Path | None) -> tuple[Config, list[ConfigError]]:
    """Read a configuration file; None: the defaults. What is wrong stands beside what can be used in spite of it, so that the plugins
    can be looked at, too. Raises `StartErrors` if nothing can."""
    if path is None:
        return Config(), []
    try:
        text = path.read_bytes().decode("utf-8-sig")
        document = read_document(text, str(path), path.parent, os.environ)
        if not isinstance(document.data, dict):
            what = "is empty" if document.data is None else "must be a mapping of sections"
            raise ConfigError(
                str(path), "", f"the file {what}; see config.example.yaml, or start without a file for the defaults"
            )
    except OSError as error:
        raise StartErrors([ConfigError(str(path), "", f"cannot be read: {error.strerror or error}")]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise StartErrors([ConfigError(f"{path}:{line}", "", "is not UTF-8 text; save the file as UTF-8")]) from None
    except ConfigError as error:
        raise StartErrors([error]) from None
    reader = _Sections(document.data, document.places)
    config = reader.config(str(path), path.parent)
    failed = {error.path for error in document.errors}
    return config, [*document.errors, *(error for error in reader.errors if error.path not in failed)]


def read_mapping(data: Mapping[str, object]) -> tuple[Config, list[ConfigError]]:
    """The same of what a file would hold, from within a program. `${...}` is not replaced."""
    reader = _Sections(dict(data), Places("config"))
    return reader.config("config", Path()), reader.errors


class _Sections:
    """Reads the sections of a file, collecting errors."""

    def __init__(self, data: dict[str, object], places: Places) -> None:
        # A section of which everything is commented out is null.
        self.data = {name: value for name, value in data.items() if value is not None}
        self.places = places
        self.errors: list[ConfigError] = []
        known = (*SECTIONS, *SEAMS)
        self.errors += [
            places.error((name,), f"unknown section{did_you_mean(name, known)}") for name in data if name not in known
        ]

    def config(self, source: str, directory: Path) -> Config:
        found: dict[str, Any] = {name: self.section(name, model) for name, model in SECTIONS.items()}
        for seam in SEAMS:
            if seam in self.data and (value := self.read(seam, self.data[seam])) is not None:
                found[seam] = value
        return Config(**found, source=source, directory=directory, places=self.places)

    def section(self, name: str, model: type[Section]) -> Section:
        data = self.data.get(name, {})
        try:
            return model.model_validate(data)
        except ValidationError as error:
            self.errors += option_errors(error, model, data, lambda path, what: self.places.error((name, *path), what))
            return model()

    def read(self, seam: str, value: object) -> PluginEntry | tuple[PluginEntry, ...] | None:
        if seam in SINGLE_SEAMS:
            return self.entry((seam,), value)
        if not isinstance(value, list):
            self.errors.append(self.places.error((seam,), "must be a list; begin each plugin with `- use: name`"))
            return None
        return tuple(entry for index, item in enumerate(value) if (entry := self.entry((seam, index), item)))

    def entry(self, path: OptionPath, value: object) -> PluginEntry | None:
        if not isinstance(value, dict):
            self.errors.append(self.places.error(path, "must be a mapping; write `use: name` and the plugin's options"))
            return None
        use = value.get("use")
        if not isinstance(use, str) or not use:
            what = "missing; name the plugin, such as `use: file`" if use is None else "must be the name of a plugin"
            self.errors.append(self.places.error((*path, "use"), what))
            return None
        return PluginEntry(use, {key: item for key, item in value.items() if key != "use"}, path, self.places)
