"""The judges' client, waiting and awaiting; one for each judge's address.

    JudgeClient(url, key=None, *, timeout_s=60, retries=Retries(), transport=None)        AsyncJudgeClient(…)
        .info() -> JudgeInfo                        criterion, version, range
        .score(candidates) -> ScoreResponse         of ScoreItem; one score per candidate, in order
        .readiness() -> Readiness

An answer that is not one score per candidate, in order, under the judge's own criterion and version, is Unavailable:
what a judge did not say is never made up.
"""

from __future__ import annotations

from collections.abc import Sequence

from fashiondpo.clients.calls import Call, Reply, get, post, read_json, record
from fashiondpo.clients.http import AsyncServiceClient, ServiceClient
from fashiondpo.contracts import JudgeInfo, Score
from fashiondpo.errors import Unavailable
from fashiondpo.messages import ScoreItem, ScoreRequest, ScoreResponse


class JudgeClient(ServiceClient):
    """Asks a judge what it thinks of candidates."""

    def info(self) -> JudgeInfo:
        """Criterion, version and range."""
        return self.run(info())

    def score(self, candidates: Sequence[ScoreItem]) -> ScoreResponse:
        """One score per candidate, in order; raises Unavailable, Overloaded, InvalidInput."""
        return self.run(score(candidates))


class AsyncJudgeClient(AsyncServiceClient):
    """The same as `JudgeClient`, awaited."""

    async def info(self) -> JudgeInfo:
        """As `JudgeClient.info`."""
        return await self.run(info())

    async def score(self, candidates: Sequence[ScoreItem]) -> ScoreResponse:
        """As `JudgeClient.score`."""
        return await self.run(score(candidates))


def info() -> Call[JudgeInfo]:
    """The call for what a judge is."""
    return get("info", record(JudgeInfo))


def score(candidates: Sequence[ScoreItem]) -> Call[ScoreResponse]:
    """The call that has candidates judged. Judging twice harms nobody, so it needs no idempotency key."""
    request = ScoreRequest(candidates=tuple(candidates))
    asked = [candidate.candidate_id for candidate in request.candidates]

    def checked(reply: Reply) -> ScoreResponse:
        answer = read_json(ScoreResponse, reply.content)
        given = [score.candidate_id for score in answer.scores]
        if len(given) != len(asked):
            raise Unavailable(f"asked for {len(asked)} scores, got {len(given)}")
        if wrong := next((pair for pair in zip(asked, given, strict=True) if pair[0] != pair[1]), None):
            raise Unavailable(f"asked for the score of {wrong[0]!r}, got one of {wrong[1]!r}")
        for one in answer.scores:
            _check(one, answer.judge)
        return answer

    return post("score", request, checked)


def _check(given: Score, judge: JudgeInfo) -> None:
    if (given.criterion, given.judge_version) != (judge.criterion, judge.version):
        raise Unavailable(f"the score of {given.candidate_id!r} is another judge's: {given.criterion!r}")
    # rounding may carry a cosine a little beyond 1
    slack = 1e-6 * (judge.high - judge.low)
    if given.value is not None and not judge.low - slack <= given.value <= judge.high + slack:
        raise Unavailable(
            f"the score of {given.candidate_id!r} is {given.value:g}, outside {judge.low:g} … {judge.high:g}"
        )
