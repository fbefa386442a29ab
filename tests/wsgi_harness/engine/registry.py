"""A registry with one tiny image, or one that is silent, on this machine."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import socket
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_DOCKER = "application/vnd.docker"
_MANIFEST = f"{_DOCKER}.distribution.manifest.v2+json"


@contextlib.contextmanager
def silent_registry() -> Iterator[str]:
    """Give the address of a port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def registry(*, without_layers: bool = False) -> Iterator[str]:
    """Give the address of a registry that has one image under every name.

    :param without_layers: it describes the image, and is silent when asked for a layer.
    """
    layer = gzip.compress(tar := _tar())
    described = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [_digest(tar)]},
        "history": [{"created_by": "a test"}],
    }
    config = json.dumps(described).encode()
    content = {"schemaVersion": 2, "mediaType": _MANIFEST}
    content["config"] = _reference(config, f"{_DOCKER}.container.image.v1+json")
    content["layers"] = [_reference(layer, f"{_DOCKER}.image.rootfs.diff.tar.gzip")]
    manifest = json.dumps(content).encode()
    blobs = {_digest(blob): blob for blob in (config, layer)}
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, _, name = self.path.rpartition("/")
            if kind.endswith("/blobs"):
                if without_layers and name == _digest(layer):
                    over.wait()
                    return
                self._send(blobs[name], "application/octet-stream")
            else:
                self._send(manifest if kind.endswith("/manifests") else b"{}", _MANIFEST)

        do_HEAD = do_GET  # noqa: N815 (the name that http.server looks for)

        def _send(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", _digest(body))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            over.set()
            server.shutdown()
            serving.join()


def _tar() -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("from-the-registry"))
    return body.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _reference(content: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "size": len(content), "digest": _digest(content)}
