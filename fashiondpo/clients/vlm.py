"""The client of a server of vision-language models: carries what `fashiondpo.judges.remote_quality` asks.

    ModelServerClient(url, key=None, *, timeout_s=60, retries=Retries(), transport=None)
        .ask(path, body) -> bytes             the content of a good answer
        .problem(path) -> str | None          for /readyz: why the server is not there

Busy, failing and absent servers are asked again, with growing pauses and not before the time that they name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import httpx

from fashiondpo.clients.calls import Call, Reply, get
from fashiondpo.clients.http import ServiceClient
from fashiondpo.clients.problems import retry_after_s
from fashiondpo.clients.retries import NO_RETRIES, Retries, TryAgain
from fashiondpo.errors import FashionDPOError, InvalidInput, ModelRefused, Unavailable

_WAITED_FOR = frozenset({429, 502, 503, 504})
_READ_HERE = frozenset(range(400, 600)) - _WAITED_FOR
"""Statuses whose meaning is a model server's, not that of our services."""
_LONGEST_TEXT = 300
_HEALTH_TIMEOUT_S = 3.0


class ModelServerClient(ServiceClient):
    """Asks a model server; every failure is an Unavailable, so that what was asked may be asked again."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retries: Retries = Retries(),  # noqa: B008 — frozen
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Name the server; arguments as for `ServiceClient`, and the address may end in /v1 as clients of OpenAI have it."""
        root = url.rstrip("/").removesuffix("/v1")
        super().__init__(root, key, timeout_s=timeout_s, retries=retries, transport=transport)
        self._health = ServiceClient(
            root, key, timeout_s=min(timeout_s, _HEALTH_TIMEOUT_S), retries=NO_RETRIES, transport=transport
        )

    def close(self) -> None:
        """Give the connections back."""
        super().close()
        self._health.close()

    def ask(self, path: str, body: Mapping[str, object]) -> bytes:
        """Post a question; the content of a good answer, which is JSON.

        Raises:
            ModelRefused: if the server refuses the request.
            Unavailable: for everything else that is no answer, after the retries.
        """
        content, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        call = Call("POST", path, _settled, headers=headers, content=content, accepted=_READ_HERE)
        try:
            reply = self.run(call)
        except Unavailable:
            raise
        except InvalidInput as redirected:
            raise ModelRefused(str(redirected), answered=307) from redirected
        except FashionDPOError as error:
            raise Unavailable(str(error)) from error
        if reply.status >= 400:
            told = f"the model server refuses the request with status {reply.status}: {_words(reply)}"
            raise ModelRefused(told, answered=reply.status)
        return reply.content

    def problem(self, path: str) -> str | None:
        """Why the server is not there; None if it is."""
        try:
            self._health.run(get(path, lambda _reply: None))
        except FashionDPOError as error:
            return str(error)[:_LONGEST_TEXT]
        return None


def _settled(reply: Reply) -> Reply:
    """An answer that would be the same if it were asked for again: a good one, or a refusal.

    Raises:
        TryAgain: for a failure that may pass.
    """
    if reply.status >= 500 or reply.status in (408, 425):
        error = Unavailable(f"the model server failed with status {reply.status}: {_words(reply)}")
        raise TryAgain(error, after_s=retry_after_s(reply))
    if reply.status < 400:
        try:
            json.loads(reply.content)
        except ValueError as error:
            raise TryAgain(Unavailable(f"the model server's answer is no JSON: {error}")) from error
    return reply


def _words(reply: Reply) -> str:
    """What the server says is wrong, in its own or in OpenAI's form."""
    try:
        found = json.loads(reply.content)
    except ValueError:
        found = reply.content.decode("utf-8", "replace").strip()
    if isinstance(found, dict):
        found = found.get("error", found.get("detail", found))
    if isinstance(found, dict):
        found = found.get("message", found)
    return str(found)[:_LONGEST_TEXT] or "no text"
