"""How model servers are asked to answer with one letter, and where in their answers its probability stands.

All of them speak the chat API of OpenAI with pictures, but each constrains an answer in a way of its own, and some ignore
in silence what they do not know. So the dialect is declared, never guessed.

    vllm          structured_outputs.choice, log-probabilities                   vLLM 0.12 or later
    vllm-legacy   guided_choice, log-probabilities                               vLLM before that
    llama.cpp     a grammar, log-probabilities                                   llama-server with --mmproj
    ollama        a JSON schema; log-probabilities where the version has them    Ollama
    transformers  /v1/systemone: probabilities of all options, no text           `transformers serve` 5.23 or later
    none          nothing; the text must be one letter                           any other server
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError

from fashiondpo.errors import Unavailable, UnparseableAnswer
from fashiondpo.judges.base import Scored
from fashiondpo.judges.rubric import Rubric, scored_by_label, scored_by_probabilities

DialectName = Literal["vllm", "vllm-legacy", "llama.cpp", "ollama", "transformers", "none"]
DIALECTS: tuple[DialectName, ...] = get_args(DialectName)
_Answer = TypeVar("_Answer", bound=BaseModel)

_ALTERNATIVES = 20
"""Tokens whose log-probabilities are asked for: the most that the API allows."""
_LONGEST_SAID = 200
_QUESTION, _PICTURE = "quality", "<picture>"
_ONE_LETTER = re.compile(r"[\s\"'`*.()\[\]]*([A-Z])[\s\"'`*.()\[\]]*")
"""A letter by itself; quotes, brackets, emphasis and a full stop around it do not make it a sentence."""


@dataclass(frozen=True)
class ModelRequest:
    """What is posted to a model server."""

    path: str
    body: Mapping[str, object]


class Dialect(Protocol):
    """Asks in the words of one kind of server, and understands its answers."""

    @property
    def health_path(self) -> str:
        """Where the server says that it is there."""

    @property
    def may_overlook_pictures(self) -> bool:
        """Whether some servers of this kind give probabilities that are not of this picture, and do not say so."""

    def request(self, rubric: Rubric, model: str, png: bytes, wrong: str | None) -> ModelRequest:
        """The question about a picture; `wrong` is the answer to the same question that was none."""

    def read(self, rubric: Rubric, content: bytes) -> Scored:
        """What an answer is worth; raises UnparseableAnswer if it chooses nothing, Unavailable if it is no answer."""


def dialect(name: DialectName) -> Dialect:
    """The dialect of this name.

    Raises:
        ValueError: if there is none.
    """
    if name == "transformers":
        return DecisionDialect()
    if name not in _CHAT:
        raise ValueError(f"unknown dialect {name!r}: choose one of {', '.join(DIALECTS)}")
    return _CHAT[name]


class _Alternative(BaseModel):
    token: str
    logprob: float


class _Token(_Alternative):
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    logprobs: _Logprobs | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


class _Decision(BaseModel):
    probabilities: dict[str, float]


class _Decisions(BaseModel):
    answers: dict[str, _Decision]


@dataclass(frozen=True)
class ChatDialect:
    """A server of POST /v1/chat/completions.

    Attributes:
        constraint: what of the body makes it answer with a label.
        tokens: room for the answer.
        health_path: where it says that it is there.
        may_overlook_pictures: as in `Dialect`.
    """

    constraint: Callable[[Rubric], dict[str, object]]
    tokens: int = 4
    health_path: str = "/health"
    may_overlook_pictures: bool = False

    def request(self, rubric: Rubric, model: str, png: bytes, wrong: str | None) -> ModelRequest:
        """The question; after a wrong answer the conversation goes on with it and a reminder of how to answer."""
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png).decode()}"}}
        messages: list[dict[str, object]] = [
            {"role": "user", "content": [picture, {"type": "text", "text": rubric.prompt}]}
        ]
        if wrong:
            messages += [
                {"role": "assistant", "content": wrong[:_LONGEST_SAID]},
                {"role": "user", "content": f"That is no answer. {rubric.reminder}"},
            ]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": self.tokens}
        return ModelRequest("/v1/chat/completions", body | self.constraint(rubric))

    def read(self, rubric: Rubric, content: bytes) -> Scored:
        """The expected level where the label's token came with its alternatives, else the label's level."""
        choice = _parsed(_Completion, content).choices[0]
        said = choice.message.content or ""
        label = _label_in(said)
        if label not in rubric.labels:
            raise UnparseableAnswer(
                f"expected one letter from {rubric.labels[0]} to {rubric.labels[-1]}, got {said[:_LONGEST_SAID]!r}",
                said=said,
            )
        tokens = (choice.logprobs.content if choice.logprobs is not None else None) or []
        token = next((one for one in tokens if _bare(one.token) == label), None)
        if token is None or not token.top_logprobs:
            return scored_by_label(rubric, label)
        return scored_by_probabilities(rubric, _by_label(token.top_logprobs, rubric.labels))


class DecisionDialect:
    """`transformers serve`: its chat API knows neither constraints nor log-probabilities, but it answers typed questions.

    The server writes the prompt from the same question and meanings, and gives the probabilities of all levels. It asks the
    model for the last position only; of a model class that does not know `logits_to_keep`, MiniCPM-V 4.6 among them, it then
    reads the first position, which has seen nothing (transformers 5.23).
    """

    health_path = "/health"
    may_overlook_pictures = True

    def request(self, rubric: Rubric, model: str, png: bytes, wrong: str | None) -> ModelRequest:
        """One question of type `score` about a state that is the picture; there is no conversation."""
        return ModelRequest(
            "/v1/systemone",
            {
                "model": model,
                "state": _PICTURE,
                "questions": {
                    _QUESTION: {
                        "type": "score",
                        "instructions": rubric.question,
                        "criteria": list(rubric.meanings),
                    }
                },
                "assets": {_PICTURE: {"type": "image", "format": "png", "data_base64": base64.b64encode(png).decode()}},
            },
        )

    def read(self, rubric: Rubric, content: bytes) -> Scored:
        """The expected level; the server tells probabilities among the levels only, so their mass is not known."""
        answers = _parsed(_Decisions, content).answers
        if _QUESTION not in answers:
            raise Unavailable(f"the model server answered {sorted(answers)}, but was asked about {_QUESTION!r}")
        told = answers[_QUESTION].probabilities
        if set(told) != {str(level) for level in range(rubric.levels)}:
            raise Unavailable(f"the model server told probabilities of {sorted(told)}, not of {rubric.levels} levels")
        if any(not 0 <= probability <= 1.000001 for probability in told.values()):
            raise UnparseableAnswer(f"probabilities that are none: {sorted(told.values())}")
        log_probs = {
            label: math.log(told[str(level)]) if told[str(level)] > 0 else -math.inf
            for level, label in enumerate(rubric.labels)
        }
        scored = scored_by_probabilities(rubric, log_probs)
        return Scored(scored.value, {name: v for name, v in scored.diagnostics.items() if name != "label_mass"})


def _parsed(kind: type[_Answer], content: bytes) -> _Answer:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Unavailable(f"the model server's answer is none: {place or 'body'}: {first['msg']}") from error


def _label_in(said: str) -> str:
    """The one letter of an answer: by itself, or as the label of a JSON object; empty if there is none."""
    try:
        found = json.loads(said)
    except ValueError:
        found = said
    if isinstance(found, dict):
        found = found.get("label")
    match = _ONE_LETTER.fullmatch(found) if isinstance(found, str) else None
    return match[1] if match else ""


def _bare(token: str) -> str:
    """A token without the blanks and quotes that some tokenizers put around a letter."""
    return token.strip().strip("\"'▁Ġ")


def _by_label(alternatives: Sequence[_Alternative], labels: Sequence[str]) -> dict[str, float]:
    """Log-probabilities by label; a letter may be several tokens, with and without a blank before it."""
    found: dict[str, list[float]] = {}
    for alternative in alternatives:
        if (label := _bare(alternative.token)) in labels:
            if math.isnan(alternative.logprob) or alternative.logprob == math.inf:
                raise UnparseableAnswer(f"the log-probability of {label} is {alternative.logprob}")
            found.setdefault(label, []).append(alternative.logprob)
    return {label: _log_sum_exp(values) for label, values in found.items()}


def _log_sum_exp(values: Sequence[float]) -> float:
    highest = max(values)
    if highest == -math.inf:
        return highest
    return highest + math.log(math.fsum(math.exp(value - highest) for value in values))


_WITH_LOGPROBS: dict[str, object] = {"logprobs": True, "top_logprobs": _ALTERNATIVES}


def _grammar(rubric: Rubric) -> dict[str, object]:
    return {"grammar": "root ::= " + " | ".join(f'"{label}"' for label in rubric.labels), **_WITH_LOGPROBS}


def _schema(rubric: Rubric) -> dict[str, object]:
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": list(rubric.labels)}},
        "required": ["label"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "level", "strict": True, "schema": schema}}
    return {"response_format": form, **_WITH_LOGPROBS}


_CHAT: dict[str, ChatDialect] = {
    "vllm": ChatDialect(lambda rubric: {"structured_outputs": {"choice": list(rubric.labels)}, **_WITH_LOGPROBS}),
    "vllm-legacy": ChatDialect(lambda rubric: {"guided_choice": list(rubric.labels), **_WITH_LOGPROBS}),
    "llama.cpp": ChatDialect(_grammar),
    "ollama": ChatDialect(_schema, tokens=24, health_path="/api/version"),
    "none": ChatDialect(lambda _rubric: {}, tokens=16, health_path="/v1/models"),
}
