"""The generator's client, waiting and awaiting.

    GeneratorClient(url, key=None, *, timeout_s=60, retries=Retries(), transport=None)        AsyncGeneratorClient(…)
        .generate(request, *, key=None) -> Generation            all candidate sets, or the error that ended it
        .generate_stream(request, *, key=None) -> Generator[GenerationProgress | CandidateSet | Generation]
        .submit(request, *, key=None) -> Generation              returns at once; see .generation, .generation_stream
        .generation(generation_id) -> Generation                 .cancel(generation_id) -> Generation
        .generation_stream(generation_id) -> Generator[…]         as generate_stream
        .image(ref) -> bytes                                     a PNG, checked against its digest
        .adapters() -> AdapterState                              .register(registration) -> AdapterManifest
        .weights(ref) -> bytes                                   a safetensors file, checked against its digest
        .activate(version, *, is_forced=False) -> AdapterState   .rollback() -> AdapterState
        .readiness() -> Readiness

A stream gives progress after denoising steps, every candidate set as soon as it is finished, and at the end the whole
generation. Whoever stops reading a stream of `generate_stream` stops the painting. `key` is the idempotency key; unless
given, every call has its own, which its repetitions share.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

from fashiondpo.clients.calls import Call, EventStream, Reply, delete, get, new_key, post, read_json, record, segment
from fashiondpo.clients.events import ServerEvent
from fashiondpo.clients.http import AsyncServiceClient, ServiceClient
from fashiondpo.clients.problems import error_of_problem
from fashiondpo.contracts import AdapterManifest, AdapterRef, ArtifactRef, CandidateSet, content_digest
from fashiondpo.errors import Cancelled, FashionDPOError, Unavailable
from fashiondpo.messages import (
    GENERATION_EVENTS,
    AdapterActivation,
    AdapterRegistration,
    AdapterState,
    GenerateRequest,
    Generation,
    GenerationProgress,
    Problem,
)

GenerationNews = GenerationProgress | CandidateSet | Generation
"""What a stream tells of a generation."""


class GeneratorClient(ServiceClient):
    """Asks a generator for candidates, and which adapter it shall paint with."""

    def generate(self, request: GenerateRequest, *, key: str | None = None) -> Generation:
        """Complete outfits; raises the error that ended the painting, or Overloaded, InvalidInput, Unavailable."""
        return self.run(generate(request, key))

    def generate_stream(self, request: GenerateRequest, *, key: str | None = None) -> Generator[GenerationNews]:
        """Complete outfits and tell of it; closing the iterator stops the painting."""
        return self.stream(generate_stream(request, key))

    def submit(self, request: GenerateRequest, *, key: str | None = None) -> Generation:
        """Have outfits completed without waiting for it."""
        return self.run(submit(request, key))

    def generation(self, generation_id: str) -> Generation:
        """What is there of a generation; one that failed is returned with its problem. Raises NotFound."""
        return self.run(generation(generation_id))

    def generation_stream(self, generation_id: str) -> Generator[GenerationNews]:
        """Tell of a generation until its end; it goes on if nobody listens."""
        return self.stream(generation_stream(generation_id))

    def cancel(self, generation_id: str) -> Generation:
        """Stop a generation; what is finished of it is kept."""
        return self.run(cancel(generation_id))

    def image(self, ref: ArtifactRef) -> bytes:
        """A picture's PNG file; raises NotFound, and Unavailable if what comes is something else."""
        return self.run(image(ref))

    def adapters(self) -> AdapterState:
        """Versions, aliases, and what this generator serves."""
        return self.run(adapters())

    def register(self, registration: AdapterRegistration) -> AdapterManifest:
        """Keep weights as a new version, once they are verified; raises InvalidAdapter."""
        return self.run(register(registration))

    def weights(self, ref: AdapterRef) -> bytes:
        """A version's safetensors file; raises NotFound, and Unavailable if what comes is something else."""
        return self.run(weights(ref))

    def activate(self, version: int, *, is_forced: bool = False) -> AdapterState:
        """Make a version the champion; `is_forced` although the gate refused it."""
        return self.run(activate(version, is_forced=is_forced))

    def rollback(self) -> AdapterState:
        """Make the previous version the champion again; raises Conflict if there is none."""
        return self.run(rollback())


class AsyncGeneratorClient(AsyncServiceClient):
    """The same as `GeneratorClient`, awaited."""

    async def generate(self, request: GenerateRequest, *, key: str | None = None) -> Generation:
        """As `GeneratorClient.generate`; cancelling the awaiting task stops the painting."""
        return await self.run(generate(request, key))

    def generate_stream(self, request: GenerateRequest, *, key: str | None = None) -> AsyncGenerator[GenerationNews]:
        """As `GeneratorClient.generate_stream`."""
        return self.stream(generate_stream(request, key))

    async def submit(self, request: GenerateRequest, *, key: str | None = None) -> Generation:
        """As `GeneratorClient.submit`."""
        return await self.run(submit(request, key))

    async def generation(self, generation_id: str) -> Generation:
        """As `GeneratorClient.generation`."""
        return await self.run(generation(generation_id))

    def generation_stream(self, generation_id: str) -> AsyncGenerator[GenerationNews]:
        """As `GeneratorClient.generation_stream`."""
        return self.stream(generation_stream(generation_id))

    async def cancel(self, generation_id: str) -> Generation:
        """As `GeneratorClient.cancel`."""
        return await self.run(cancel(generation_id))

    async def image(self, ref: ArtifactRef) -> bytes:
        """As `GeneratorClient.image`."""
        return await self.run(image(ref))

    async def adapters(self) -> AdapterState:
        """As `GeneratorClient.adapters`."""
        return await self.run(adapters())

    async def register(self, registration: AdapterRegistration) -> AdapterManifest:
        """As `GeneratorClient.register`."""
        return await self.run(register(registration))

    async def weights(self, ref: AdapterRef) -> bytes:
        """As `GeneratorClient.weights`."""
        return await self.run(weights(ref))

    async def activate(self, version: int, *, is_forced: bool = False) -> AdapterState:
        """As `GeneratorClient.activate`."""
        return await self.run(activate(version, is_forced=is_forced))

    async def rollback(self) -> AdapterState:
        """As `GeneratorClient.rollback`."""
        return await self.run(rollback())


def generate(request: GenerateRequest, key: str | None = None) -> Call[Generation]:
    """The call that completes outfits."""
    return post("generate", request, _succeeded, key=key or new_key())


def generate_stream(request: GenerateRequest, key: str | None = None) -> EventStream[GenerationNews]:
    """The stream of a new generation."""
    call: Call[None] = post("generate", request, _nothing, key=key or new_key())
    return EventStream(call, _news, _is_result)


def submit(request: GenerateRequest, key: str | None = None) -> Call[Generation]:
    """The call that has outfits completed in the background."""
    headers = {"Prefer": "respond-async"}
    return post("generate", request, record(Generation), key=key or new_key(), headers=headers)


def generation(generation_id: str) -> Call[Generation]:
    """The call for a generation's state."""
    return get(f"generations/{segment(generation_id)}", record(Generation))


def generation_stream(generation_id: str) -> EventStream[GenerationNews]:
    """The stream of a generation that was begun before."""
    call: Call[None] = get(f"generations/{segment(generation_id)}", _nothing)
    return EventStream(call, _news, _is_result)


def cancel(generation_id: str) -> Call[Generation]:
    """The call that stops a generation."""
    return delete(f"generations/{segment(generation_id)}", record(Generation))


def image(ref: ArtifactRef) -> Call[bytes]:
    """The call for a picture."""

    def checked(reply: Reply) -> bytes:
        if content_digest(reply.content) != ref.partition(".")[0]:
            raise Unavailable(
                f"the answer is not the picture {ref}: its {len(reply.content)} bytes have another digest"
            )
        return reply.content

    return get(f"images/{segment(ref)}", checked)


def adapters() -> Call[AdapterState]:
    """The call for versions and aliases."""
    return get("adapters", record(AdapterState))


def register(registration: AdapterRegistration) -> Call[AdapterManifest]:
    """The call that keeps a new version; the registry keeps one version per round, however often it is asked."""
    return post("adapters", registration, record(AdapterManifest), key=new_key())


def weights(ref: AdapterRef) -> Call[bytes]:
    """The call for a version's weights, of the digest that is known of it."""

    def checked(reply: Reply) -> bytes:
        if content_digest(reply.content) != ref.digest:
            raise Unavailable(
                f"the answer is not adapter version {ref.version}: its {len(reply.content)} bytes have another digest"
            )
        return reply.content

    return get(f"adapters/{segment(ref.version)}/weights", checked)


def activate(version: int, *, is_forced: bool) -> Call[AdapterState]:
    """The call that makes a version the champion."""
    return post(f"adapters/{segment(version)}/activate", AdapterActivation(force=is_forced), record(AdapterState))


def rollback() -> Call[AdapterState]:
    """The call that takes the last change of the champion back."""
    return post("adapters/rollback", None, record(AdapterState), is_repeatable=False)


def _news(event: ServerEvent) -> GenerationNews | None:
    kind = GENERATION_EVENTS.get(event.name)
    if kind is None:
        return None
    said = read_json(kind, event.text)
    if isinstance(said, Problem):
        raise error_of_problem(said, "the generator")
    return _ended_well(said) if isinstance(said, Generation) else said


def _is_result(news: GenerationNews) -> bool:
    return isinstance(news, Generation)


def _succeeded(reply: Reply) -> Generation:
    return _ended_well(read_json(Generation, reply.content))


def _ended_well(result: Generation) -> Generation:
    """The generation itself; raises the error that ended it early."""
    if result.status == "succeeded":
        return result
    if result.problem is not None:
        raise error_of_problem(result.problem, f"generation {result.generation_id}")
    if result.status == "cancelled":
        raise Cancelled(f"generation {result.generation_id} was cancelled")
    raise FashionDPOError(f"generation {result.generation_id} ended as {result.status!r} without saying why")


def _nothing(_reply: Reply) -> None:
    """The answer is the events."""
