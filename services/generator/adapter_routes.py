"""/adapters: which versions there are, their weights, which one serves, and how to change that. Logic: adapter_desk.py."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Response

from fashiondpo.contracts import AdapterManifest
from fashiondpo.messages import AdapterActivation, AdapterRegistration, AdapterState
from fashiondpo.serving.keys import requires
from fashiondpo.serving.loading import Loading
from services.generator.negotiation import has_already
from services.generator.opened import OpenedGenerator

Version = Annotated[int, Path(ge=0, lt=2**31, description="0 is the base model.")]
_SAFETENSORS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
# A version never changes, but a generator without Redis counts anew when it is started again: so ask each time.
_ASK_EACH_TIME = "private, no-cache"


def adapter_router(generator: Loading[OpenedGenerator]) -> APIRouter:
    """The routes of adapters."""
    router = APIRouter(prefix="/adapters", tags=["adapters"])
    as_admin = [Depends(requires("admin"))]

    @router.get("", dependencies=[Depends(requires("read"))])
    def adapters() -> AdapterState:
        """The registry's versions and aliases, and what this generator serves."""
        return generator.value.adapters.state()

    @router.post("", status_code=201, dependencies=as_admin)
    def register(body: AdapterRegistration) -> AdapterManifest:
        """Verify weights and keep them as a new version; it serves when it is activated, not before."""
        return generator.value.adapters.register(body)

    @router.post("/rollback", dependencies=as_admin)
    def rollback() -> AdapterState:
        """Make the previous version the champion again."""
        return generator.value.adapters.rollback()

    @router.post("/{version}/activate", dependencies=as_admin)
    def activate(version: Version, body: AdapterActivation | None = None) -> AdapterState:
        """Make a version the champion, which all generators follow; verified on this one first."""
        return generator.value.adapters.activate(version, is_forced=body is not None and body.force)

    @router.get(
        "/{version}/weights",
        dependencies=[Depends(requires("train"))],
        response_class=Response,
        responses={200: {"content": _SAFETENSORS}, 304: {"description": "The caller has them already."}},
    )
    def weights(version: Version, if_none_match: Annotated[str | None, Header()] = None) -> Response:
        """A version's safetensors file, as `POST /adapters` takes it; its digest is the `ETag`."""
        desk = generator.value.adapters
        tag = f'"{desk.manifest(version).digest}"'
        headers = {"ETag": tag, "Cache-Control": _ASK_EACH_TIME}
        if has_already(if_none_match, tag):
            return Response(status_code=304, headers=headers)
        return Response(desk.weights(version), media_type="application/octet-stream", headers=headers)

    return router
