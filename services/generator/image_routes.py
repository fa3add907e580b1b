"""GET /images/{ref}: the pictures that generations name."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response

from fashiondpo.contracts import ArtifactRef
from fashiondpo.errors import NotFound
from fashiondpo.serving.keys import requires
from fashiondpo.serving.loading import Loading
from services.generator.negotiation import has_already
from services.generator.opened import OpenedGenerator
from services.generator.stored import stored_artifact

# A reference names its content, so what is behind it never changes; but who has no key must not get it from a cache.
_FOREVER = "private, max-age=31536000, immutable"
_PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}


def image_router(generator: Loading[OpenedGenerator]) -> APIRouter:
    """The routes of pictures."""
    router = APIRouter(tags=["images"])

    @router.get(
        "/images/{ref}",
        dependencies=[Depends(requires("read"))],
        response_class=Response,
        responses={200: {"content": _PNG}, 304: {"description": "The caller has it already."}},
    )
    def image(ref: ArtifactRef, if_none_match: Annotated[str | None, Header()] = None) -> Response:
        """A picture as PNG; it may be kept forever."""
        if not ref.endswith(".png"):
            raise NotFound(f"{ref} is no picture")
        artifacts = generator.value.artifacts
        tag = f'"{ref.partition(".")[0]}"'
        headers = {"ETag": tag, "Cache-Control": _FOREVER}
        if has_already(if_none_match, tag):
            if not artifacts.has(ref):
                raise NotFound(f"there is no picture {ref}")
            return Response(status_code=304, headers=headers)
        return Response(stored_artifact(artifacts, ref), media_type="image/png", headers=headers)

    return router
