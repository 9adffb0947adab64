"""tusd: a server for resumable uploads over HTTP (https://tus.io)."""

__version__ = "0.1.0"
