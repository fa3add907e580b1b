"""Quality by a vision-language model behind a server: the judge asks, somebody else carries the words.

No HTTP here: a `ModelTransport` is handed in. `fashiondpo.clients.vlm` has the one that services use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Protocol

import numpy as np

from fashiondpo.contracts import JudgeInfo, Score
from fashiondpo.errors import FashionDPOError, ModelRefused, UnparseableAnswer
from fashiondpo.judges.base import JudgeInput, Outcome, Scored, Unscored, check_input, to_scores, unscored
from fashiondpo.judges.circuit import CircuitBreaker
from fashiondpo.judges.dialects import DialectName, dialect
from fashiondpo.judges.rubric import Rubric
from fashiondpo.outfits.images import encode_png, white_image

_ABOUT_THE_PICTURE = (400, 413, 422)
"""Statuses with which a server refuses one picture, if it takes others."""


class ModelTransport(Protocol):
    """Carries questions to a model server; several threads share it."""

    def ask(self, path: str, body: Mapping[str, object]) -> bytes:
        """The content of a good answer.

        Raises:
            ModelRefused: if the server refuses the request.
            Unavailable: if it does not answer, not in time, or is overloaded, however often it was asked.
        """


class RemoteQualityJudge:
    """Expected quality level of each picture by itself, from a model server.

    A candidate that fails leaves the others alone. Failures of the server may pass, so they are not final; an answer that
    is none, however often the model is asked, is.
    """

    def __init__(
        self,
        transport: ModelTransport,
        *,
        model: str,
        rubric: Rubric,
        dialect_name: DialectName,
        revision: str | None = None,
        concurrency: int = 8,
        tries: int = 3,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        """Put the parts together; nothing is asked yet.

        Args:
            transport: carries the questions.
            model: the name under which the server knows the model.
            rubric: what is asked.
            dialect_name: how the server constrains answers.
            revision: of the model, where it is known; part of the judge's version.
            concurrency: questions on their way at once.
            tries: how often a model that gives no answer is asked the same.
            breaker: leaves a server alone that keeps failing; a fresh one unless given.

        Raises:
            ValueError: if there is no such dialect.
        """
        self._transport, self._model, self._rubric = transport, model, rubric
        self._dialect = dialect(dialect_name)
        self._concurrency, self._tries = concurrency, tries
        self._breaker = breaker or CircuitBreaker("the model server")
        self._has_answered = False
        self._is_trusted = not self._dialect.may_overlook_pictures
        version = f"{model}@{revision or 'unknown'}+{dialect_name}+{rubric.version}"
        self._info = JudgeInfo(criterion="quality", version=version, low=1, high=rubric.levels)

    @property
    def info(self) -> JudgeInfo:
        """Criterion, version and range."""
        return self._info

    def score(self, inputs: Sequence[JudgeInput]) -> list[Score]:
        """One score per candidate, in order; diagnostics say by what, the likeliest label and how sure the model was."""
        if not inputs:
            return []
        if (blind := self._blindness()) is not None:
            return to_scores(inputs, self._info, [unscored(blind)] * len(inputs))
        with ThreadPoolExecutor(min(self._concurrency, len(inputs)), "model-server") as pool:
            # whoever asks keeps his ids in the log lines of the threads
            asked = [pool.submit(copy_context().run, self._outcome, judge_input) for judge_input in inputs]
            outcomes = [future.result() for future in asked]
        return to_scores(inputs, self._info, outcomes)

    def _blindness(self) -> ModelRefused | None:
        """Why this server's probabilities are worth nothing; None if they are, or nobody can tell now."""
        if self._is_trusted:
            return None
        try:
            first, second = (self._asked(png) for png in _two_pictures())
        except FashionDPOError:
            return None  # the candidates will hear the reason, and be asked about again
        if (first.value, first.diagnostics) == (second.value, second.diagnostics):
            return ModelRefused(
                "the model server answers the same to the last digit about two pictures that have nothing in common: it "
                "does not look at them; serve a model of another class, use another server, or the local backend",
                answered=200,
            )
        self._is_trusted = True
        return None

    def _outcome(self, judge_input: JudgeInput) -> Outcome:
        try:
            check_input(judge_input)
            return self._asked(encode_png(judge_input.image))
        except ModelRefused as error:
            if error.answered in _ABOUT_THE_PICTURE and self._has_answered:
                return Unscored(f"invalid_input: the model server takes others but not this picture: {error}")
            return unscored(error)
        except FashionDPOError as error:
            return unscored(error)

    def _asked(self, png: bytes) -> Scored:
        wrong: UnparseableAnswer | None = None
        for _ in range(self._tries):
            request = self._dialect.request(self._rubric, self._model, png, wrong.said if wrong else None)
            try:
                with self._breaker.attempt():
                    scored = self._dialect.read(self._rubric, self._transport.ask(request.path, request.body))
            except UnparseableAnswer as error:
                wrong = error
            else:
                self._has_answered = True
                return scored
        raise UnparseableAnswer(f"asked {self._tries} times: {wrong}")


def _two_pictures() -> tuple[bytes, bytes]:
    """White, and noise."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return encode_png(white_image(64)), encode_png(noise)
