"""A model hub over HTTP that speaks what its client asks here, with the faults that real ones have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self
from urllib.parse import unquote, urlsplit

LARGE = 1024
"""Files of this size and above are stored as large ones are: by SHA-256, behind a redirect."""


def commit_of(name: str) -> str:
    """A commit for a name."""
    return hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """Files by path of each commit, and what the branches are."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    licence: str | None = "openrail++"

    def push(self, files: dict[str, bytes], name: str = "first") -> str:
        """A new commit on main."""
        commit = commit_of(name)
        self.commits[commit] = files
        self.branches["main"] = commit
        return commit


@dataclass
class FakeHub:
    """The server; a context.

    Attributes:
        repositories: by owner/name.
        requests: method and path of each request, in order; with the range, if one was asked for.
        cut_after: bytes after which the connection breaks, by path; once.
        stall_after: bytes after which nothing more comes, by path, until the server ends; once.
        altered: content that is sent in the place of the listed one, by path.
        listed_size: size that the listing claims, by path.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cut_after: dict[str, int] = field(default_factory=dict)
    stall_after: dict[str, int] = field(default_factory=dict)
    altered: dict[str, bytes] = field(default_factory=dict)
    listed_size: dict[str, int] = field(default_factory=dict)
    has_stalled: Event = field(default_factory=Event)
    is_closing: Event = field(default_factory=Event)

    def add(self, repo: str, files: dict[str, bytes], licence: str | None = "openrail++") -> str:
        """A repository with one commit."""
        self.repositories[repo] = Repository(licence=licence)
        return self.repositories[repo].push(files)

    def downloads(self) -> list[str]:
        """Paths of the files that were asked for, with their ranges."""
        return [request for request in self.requests if "/api/" not in request and "/large/" not in request]

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


def folder_files(folder: Path, only: Callable[[str], bool] = lambda _: True) -> dict[str, bytes]:
    """Files of a folder, by path."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if only(name)}


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing: tests look at `requests`."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        asked = self.headers.get("Range")
        self.hub.requests.append(f"GET {path}{f' {asked}' if asked else ''}")
        words = path.strip("/").split("/")
        if words[:2] == ["api", "models"]:
            self._tell("/".join(words[2:4]), "/".join(words[5:]) or "main")
        elif words[0] == "large":
            self._send(*self._found("/".join(words[1:3]), words[3], "/".join(words[4:])))
        elif words[2:3] == ["resolve"]:
            self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]))
        else:
            self._refuse("EntryNotFound")

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _tell(self, repo: str, revision: str) -> None:
        repository = self.hub.repositories.get(repo)
        if repository is None:
            self._refuse("RepoNotFound")
            return
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            self._refuse("RevisionNotFound")
            return
        card = {"license": repository.licence} if repository.licence else {}
        siblings = [self._described(path, content) for path, content in repository.commits[commit].items()]
        self._answer(json.dumps({"id": repo, "sha": commit, "cardData": card, "siblings": siblings}).encode())

    def _described(self, path: str, content: bytes) -> dict[str, Any]:
        size = self.hub.listed_size.get(path, len(content))
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
        described: dict[str, Any] = {"rfilename": path, "size": size, "blobId": git}
        if len(content) >= LARGE:
            described["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return described

    def _found(self, repo: str, commit: str, path: str) -> tuple[str, bytes | None]:
        repository = self.hub.repositories.get(repo, Repository())
        return path, repository.commits.get(commit, {}).get(path)

    def _resolve(self, repo: str, commit: str, path: str) -> None:
        _, content = self._found(repo, commit, path)
        if content is None or len(content) < LARGE:
            self._send(path, content)
            return
        self.send_response(302)
        self.send_header("Location", f"/large/{repo}/{commit}/{path}")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, path: str, content: bytes | None) -> None:
        if content is None:
            self._refuse("EntryNotFound")
            return
        content = self.hub.altered.get(path, content)
        start = 0
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut, stall = self.hub.cut_after.pop(path, None), self.hub.stall_after.pop(path, None)
        end = min(x for x in (cut, stall, len(content)) if x is not None)
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if stall is not None:
            self.hub.has_stalled.set()
            self.hub.is_closing.wait()
        if end < len(content):
            self.close_connection = True

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
