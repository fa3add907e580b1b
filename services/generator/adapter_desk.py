"""Registers, hands out, activates and rolls back adapters; nothing is registered that this generator could not serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fashiondpo.contracts import AdapterManifest, AdapterRef, content_digest
from fashiondpo.diffusion.engine import Engine
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.errors import InvalidAdapter, InvalidInput, NotFound, TooLarge
from fashiondpo.messages import AdapterRegistration, AdapterState
from fashiondpo.serving.pictures import decode_base64
from fashiondpo.storage.adapters import AdapterRegistry
from fashiondpo.storage.artifacts import ArtifactStore
from services.generator.adapter_follower import AdapterFollower
from services.generator.pinned_adapters import PinnedAdapters
from services.generator.stored import stored_artifact


@dataclass(frozen=True)
class AdapterDesk:
    """What the routes of adapters call.

    Attributes:
        registry: of versions and aliases.
        artifacts: where weights may have been put before.
        engine: what serves.
        follower: brings the engine to the champion.
        pinned: brings other versions to the engine.
        verify: raises InvalidAdapter unless the engine could paint with the weights.
        max_bytes: of an adapter file.
    """

    registry: AdapterRegistry
    artifacts: ArtifactStore
    engine: Engine
    follower: AdapterFollower
    pinned: PinnedAdapters
    verify: Callable[[AdapterWeights], None]
    max_bytes: int

    def state(self) -> AdapterState:
        """Versions and aliases, and what this generator serves. Raises Unavailable if the registry does not answer."""
        return AdapterState(
            active=self.engine.active,
            champion=self.registry.alias("champion"),
            previous=self.registry.alias("previous"),
            loaded=self.engine.loaded,
            problem=self.follower.problem,
            versions=tuple(self.registry.manifest(version) for version in self.registry.versions()),
        )

    def register(self, registration: AdapterRegistration) -> AdapterManifest:
        """Verify and keep weights; the same name with the same weights gives the same version.

        Raises:
            InvalidAdapter: if they are damaged, or this generator could not paint with them; says why.
            TooLarge: if the file is too large.
            NotFound: if the artifact or the parent is not there.
            Conflict: if the name was used for other weights.
        """
        content = self._content(registration)
        if len(content) > self.max_bytes:
            raise TooLarge(f"the adapter has {len(content)} bytes; the limit is {self.max_bytes}")
        if registration.digest is not None and content_digest(content) != registration.digest:
            raise InvalidAdapter(f"the adapter's digest is {content_digest(content)}, not {registration.digest}")
        weights = AdapterWeights.from_bytes(content)
        self.verify(weights)
        parent = registration.parent_version
        return self.registry.publish(
            content,
            round_id=registration.round_id,
            base_digest=weights.base_digest,
            parent=self.registry.manifest(parent).ref if parent else AdapterRef(),
            rank=weights.rank,
            targets=weights.targets,
            training={},
            verdict=None,
        )

    def manifest(self, version: int) -> AdapterManifest:
        """What is known of a version that has weights; raises NotFound."""
        if version == 0:
            raise NotFound("adapter version 0 is the base model and has no weights")
        return self.registry.manifest(version)

    def weights(self, version: int) -> bytes:
        """A version's safetensors file, checked against its digest.

        Raises:
            NotFound: if there is no such version, or it is the base model.
            CorruptArtifact: if the weights are damaged or gone.
        """
        return self.registry.weights(version)

    def activate(self, version: int, *, is_forced: bool) -> AdapterState:
        """Make a version the champion, and serve it.

        Raises:
            NotFound: if there is no such version.
            Conflict: if the gate did not promote it, and this is not forced.
            InvalidAdapter, CorruptArtifact: if it cannot be served; the champion stays who it was.
        """
        self.pinned.ensure(version)
        self.registry.activate(version, is_forced=is_forced)
        self.follower.follow(at_once=True)
        return self.state()

    def rollback(self) -> AdapterState:
        """Make the previous version the champion again, and serve it; raises Conflict if there is none."""
        self.registry.rollback()
        self.follower.follow(at_once=True)
        return self.state()

    def _content(self, registration: AdapterRegistration) -> bytes:
        if registration.artifact is not None:
            if not registration.artifact.endswith(".safetensors"):
                raise InvalidInput(f"{registration.artifact} is no safetensors file")
            return stored_artifact(self.artifacts, registration.artifact)
        return decode_base64(registration.weights or "", "weights")
