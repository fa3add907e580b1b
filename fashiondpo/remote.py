"""The pipeline's parts over HTTP: generator and judges that run as services. No torch.

    RemoteGenerator(client, *, adapter=AdapterRef(), round_id=None, base_digest=None, is_recorded=True,
                    outfits_per_request=8, progress=no_progress, should_stop=lambda: False)
        .generate(requests) -> Iterator[CandidateSet]         a pipeline.CandidateGenerator
        .adapter, .weights, .activate(ref, weights=None)      pins the version that paints from now on
    RemoteJudge(client, *, artifacts=None, candidates_per_request=56)
        .info, .score(candidate_sets) -> list[Score]          a pipeline.SetJudge

Judges look pictures up in the artifact store that they share with the generator. A judge given `artifacts` here gets the
pictures sent along instead.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cached_property

from pydantic import ValidationError

from fashiondpo.clients.generator import GenerationNews, GeneratorClient
from fashiondpo.clients.judge import JudgeClient
from fashiondpo.contracts import (
    AdapterRef,
    Candidate,
    CandidateRequest,
    CandidateSet,
    ItemSource,
    JudgeInfo,
    SamplerSettings,
    Score,
)
from fashiondpo.errors import (
    Cancelled,
    DeadlineExceeded,
    FashionDPOError,
    InvalidInput,
    PolicyMismatch,
    Unavailable,
)
from fashiondpo.messages import (
    GenerateRequest,
    GenerationProgress,
    ItemPicture,
    OutfitRequest,
    SamplerChoice,
    ScoreItem,
    Slot,
)
from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.storage.records import first_problem
from fashiondpo.telemetry import Progress, log, no_progress

OUTFITS_PER_REQUEST = 8
CANDIDATES_PER_REQUEST = 56
"""Eight outfits of seven candidates: what the pipeline asks about at once."""

FRUITLESS_TRIES = 3
"""How often a request that broke off is made again without a new set having come."""


class RemoteGenerator:
    """Has a generator service paint, with one adapter version, whatever the service serves to others meanwhile."""

    def __init__(
        self,
        client: GeneratorClient,
        *,
        adapter: AdapterRef = AdapterRef(),  # noqa: B008 — frozen
        round_id: str | None = None,
        base_digest: str | None = None,
        is_recorded: bool = True,
        outfits_per_request: int = OUTFITS_PER_REQUEST,
        progress: Progress = no_progress,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Compose.

        Args:
            client: of the generator; its key needs the scope "train".
            adapter: the version that paints.
            round_id: the round that collects the sets; needed where they are recorded, since they would else join the
                traffic that rounds draw from.
            base_digest: the base model that must have painted; None for any.
            is_recorded: keep trajectories; without them candidates cannot be trained on.
            outfits_per_request: painted by one request; 64 at most.
            progress: told about denoising steps of the request in work.
            should_stop: asked after every step.

        Raises:
            InvalidInput: if sets shall be recorded for no round.
        """
        if is_recorded and round_id is None:
            raise InvalidInput("recorded sets need the round that collects them, else they would join the traffic")
        self.client, self.round_id, self.base_digest = client, round_id, base_digest
        self.is_recorded, self.outfits_per_request = is_recorded, outfits_per_request
        self.progress, self.should_stop = progress, should_stop
        self.adapter, self.weights = adapter, None

    def activate(self, ref: AdapterRef, weights: object = None) -> None:
        """Have this version paint from now on. The service has its weights; given ones are checked by no more than `ref`."""
        del weights
        self.adapter = ref

    def generate(self, requests: Sequence[CandidateRequest]) -> Iterator[CandidateSet]:
        """One set per request, in order, each as soon as it and those before it are finished.

        Raises:
            PolicyMismatch: if another adapter, base model or sampler than asked for has painted.
            Unavailable: if the service does not answer, or answers with something else than was asked for.
            Cancelled: as soon as should_stop says so; the service stops too.
        """
        for batch in _batches(requests, self.outfits_per_request):
            yield from self._paint(batch)

    def _paint(self, batch: Sequence[CandidateRequest]) -> Iterator[CandidateSet]:
        """Those of one request, also if the service goes away between two of them and comes back."""
        found: dict[str, CandidateSet] = {}
        fruitless, given = 0, 0
        while given < len(batch):
            missing = [request for request in batch if request.set_id not in found]
            before = len(found)
            try:
                for candidate_set in self._stream(missing):
                    found[candidate_set.set_id] = candidate_set
                    while given < len(batch) and batch[given].set_id in found:
                        yield found[batch[given].set_id]
                        given += 1
            except DeadlineExceeded:
                raise
            except Unavailable as error:
                fruitless = 1 if len(found) > before else fruitless + 1
                if fruitless >= FRUITLESS_TRIES:
                    raise
                log().warning("generation broke off", sets=len(found), of=len(batch), problem=str(error))

    def _stream(self, batch: Sequence[CandidateRequest]) -> Iterator[CandidateSet]:
        asked = {request.set_id: request for request in batch}
        names = frozenset(asked)
        body = self._body(batch)
        key = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
        # closed at once when we stop: that is what stops the painting
        with closing(self.client.generate_stream(body, key=key)) as stream:
            for news in stream:
                if self.should_stop():
                    raise Cancelled(f"painting was stopped; {len(batch) - len(asked)} of {len(batch)} sets are kept")
                for candidate_set in _sets(news):
                    if (request := asked.pop(candidate_set.set_id, None)) is not None:
                        self._check(candidate_set, request)
                        yield candidate_set
                    elif candidate_set.set_id not in names:
                        raise Unavailable(f"the generator sent {candidate_set.set_id}, for which nobody asked")
                if isinstance(news, GenerationProgress):
                    self.progress(news.done, news.total, {})
        if asked:
            raise Unavailable(f"the generator owes {len(asked)} of {len(batch)} sets, the first is {next(iter(asked))}")

    def _body(self, batch: Sequence[CandidateRequest]) -> GenerateRequest:
        first = batch[0]
        try:
            return GenerateRequest(
                outfits=tuple(map(outfit_request, batch)),
                num_candidates=len(first.seeds),
                sampler=_choice(first.sampler),
                adapter_version=self.adapter.version,
                record=self.is_recorded,
                round_id=self.round_id if self.is_recorded else None,
            )
        except ValidationError as error:
            raise InvalidInput(f"a generator service cannot paint {first.set_id}: {first_problem(error)}") from error

    def _check(self, made: CandidateSet, request: CandidateRequest) -> None:
        """Is this what was asked for?"""
        if made.adapter != self.adapter:
            raise PolicyMismatch(
                f"{made.set_id} was made with adapter version {made.adapter.version} ({made.adapter.digest}), asked "
                f"for was version {self.adapter.version} ({self.adapter.digest})"
            )
        if self.base_digest is not None and made.base_digest != self.base_digest:
            raise PolicyMismatch(f"{made.set_id} was made with base model {made.base_digest}, not {self.base_digest}")
        if request.sampler is not None and made.sampler != request.sampler:
            raise PolicyMismatch(f"{made.set_id} was made with other sampler settings than asked for")
        if (made.outfit, made.slot, made.history) != (request.outfit, request.slot, request.history):
            raise Unavailable(f"{made.set_id} was made for another outfit, slot or history than asked for")
        if tuple(candidate.seed for candidate in made.candidates) != request.seeds:
            raise Unavailable(f"{made.set_id} was made with other seeds than asked for")
        if self.is_recorded and made.trajectory is None:
            raise Unavailable(f"{made.set_id} comes without the trajectory that was to be recorded")


class RemoteJudge:
    """Has a judge service score stored candidates.

    What a judge says of one candidate, also that it cannot be scored, is taken over. A judge that does not answer, or
    with something else than one finite score per candidate, is Unavailable: its scores are asked for again later.
    """

    def __init__(
        self,
        client: JudgeClient,
        *,
        artifacts: ArtifactStore | None = None,
        candidates_per_request: int = CANDIDATES_PER_REQUEST,
    ) -> None:
        """Compose.

        Args:
            client: of the judge.
            artifacts: where to read the pictures that are sent along; None if the judge reads them there itself.
            candidates_per_request: judged by one request; 512 at most.
        """
        self.client, self.artifacts, self.candidates_per_request = client, artifacts, candidates_per_request

    @cached_property
    def info(self) -> JudgeInfo:
        """Criterion, version and range, asked for once."""
        return self.client.info()

    def score(self, candidate_sets: Sequence[CandidateSet]) -> list[Score]:
        """One score per candidate of every set, in order.

        Raises:
            Unavailable: if the judge does not answer, not in time, with an error of its own or with nonsense.
            Overloaded: if it has no room for us.
            InvalidInput, Unauthorized, Forbidden: if it refuses to be asked like this.
        """
        items = [self._item(s, c) for s in candidate_sets for c in s.candidates]
        scores: list[Score] = []
        for start in range(0, len(items), self.candidates_per_request):
            scores += self._ask(items[start : start + self.candidates_per_request])
        return scores

    def _ask(self, items: Sequence[ScoreItem]) -> tuple[Score, ...]:
        try:
            answer = self.client.score(items)
        except Unavailable:
            raise
        except FashionDPOError as error:
            if error.status < 500:
                raise
            raise Unavailable(f"the judge of {self.info.criterion} failed: {error}") from error
        if answer.judge != self.info:
            raise Unavailable(
                f"the judge of {self.info.criterion} was version {self.info.version} and is version "
                f"{answer.judge.version} of {answer.judge.criterion} now; scores of different judges do not compare"
            )
        return answer.scores

    def _item(self, candidate_set: CandidateSet, candidate: Candidate) -> ScoreItem:
        outfit, history = candidate_set.outfit, candidate_set.history
        inline = self.artifacts is not None
        return ScoreItem(
            candidate_id=candidate.candidate_id,
            outfit=outfit,
            slot=candidate_set.slot,
            image=self._picture(candidate.image) if inline else None,
            artifact=None if inline else candidate.image,
            history=None if history is None else tuple(self._garment(item) for item in history),
            given_images={s: self._picture(ref) for s, ref in outfit.item_images.items()} if inline else {},
        )

    def _garment(self, item: ItemSource) -> ItemPicture:
        if isinstance(item, str) and self.artifacts is not None:
            return ItemPicture(image=self._picture(item))
        return _item_picture(item)

    def _picture(self, ref: str) -> str:
        if self.artifacts is None:
            raise InvalidInput(f"there is no artifact store to read {ref} from")
        return base64.b64encode(self.artifacts.get(ref)).decode()


def _batches(requests: Sequence[CandidateRequest], size: int) -> Iterator[list[CandidateRequest]]:
    """Neighbours that one request can ask for: with the same settings and as many candidates."""
    batch: list[CandidateRequest] = []
    for request in requests:
        if batch and (len(batch) == size or _shape(batch[0]) != _shape(request)):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


def _shape(request: CandidateRequest) -> tuple[SamplerSettings | None, int]:
    return request.sampler, len(request.seeds)


def outfit_request(request: CandidateRequest) -> OutfitRequest:
    """A request of the pipeline as a generator service takes it; raises InvalidInput if other slots are empty too."""
    outfit = request.outfit
    if outfit.empty_slots != (request.slot,):
        raise InvalidInput(
            f"{request.set_id}: a generator service paints all empty slots of an outfit together; outfit "
            f"{outfit.outfit_id} has {len(outfit.empty_slots)}, asked for was slot {request.slot} alone"
        )
    slots = tuple(
        Slot(category_id=category_id, item_id=item_id, artifact=outfit.item_images.get(slot))
        for slot, (category_id, item_id) in enumerate(zip(outfit.category_ids, outfit.item_ids, strict=True))
    )
    category_id = outfit.category_ids[request.slot]
    return OutfitRequest(
        user_id=outfit.user_id,
        slots=slots,
        history=None if request.history is None else {category_id: tuple(map(_item_picture, request.history))},
        outfit_id=outfit.outfit_id,
        set_id=request.set_id,
        seeds=(request.seeds,),
    )


def _item_picture(item: ItemSource) -> ItemPicture:
    return ItemPicture(artifact=item) if isinstance(item, str) else ItemPicture(item_id=item)


def _choice(sampler: SamplerSettings | None) -> SamplerChoice:
    """Every setting said, so that the service's own do not matter; none for the service's own."""
    return SamplerChoice() if sampler is None else SamplerChoice.model_validate(sampler.model_dump())


def _sets(news: GenerationNews) -> tuple[CandidateSet, ...]:
    if isinstance(news, CandidateSet):
        return (news,)
    return () if isinstance(news, GenerationProgress) else news.candidate_sets
