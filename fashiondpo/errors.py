"""Every error this system raises on purpose.

    FashionDPOError                    500
    ├── InvalidInput                   400   what was asked cannot be done as asked
    │   ├── DataFileError              400   a data file is malformed; names the file and, where known, the line
    │   │   ├── ForbiddenPickle        400   a data file asks for code or types that index files never need
    │   │   └── InvalidIndex           400   an index of one's own items has faulty lines; lists them all
    │   ├── MissingImages              400   images that the index names are not in the folder; counts and names them
    │   ├── InvalidBundle              400   a model folder lacks a part or has one of the wrong shape
    │   └── InvalidAdapter             400   adapter weights of another format, rank, base or with non-finite values
    │   └── TooLarge                   413   a request, a picture or a batch above its limit
    ├── Unauthorized                   401   no key, or one that is not known
    ├── Forbidden                      403   a key without the scope that this needs
    ├── NotFound                       404
    │   └── UnknownItem                404   an item id that the catalogue does not hold
    ├── Conflict                       409   the same name was used for different content
    │   ├── PolicyMismatch             409   a trajectory was made by another policy than the one to train
    │   └── LeaseLost                  409   somebody else works on this now; what a late twin writes is refused
    ├── Overloaded                     429   more work than there is room for; says after how many seconds to try again
    ├── CorruptArtifact                500   stored bytes no longer match their digest
    ├── TrainingDiverged               500   a gradient is no longer finite; the last checkpoint is kept
    ├── TrainingProcessFailed          500   one of the processes that train together has failed; names it and shows its log
    ├── Cancelled                      499   somebody asked for the work to stop
    ├── UnparseableAnswer              502   a vision-language model was asked several times and chose no level
    └── Unavailable                    503   something this depends on does not answer; try again later
        ├── DeadlineExceeded           503   the work was not done within the time that the caller gave it
        ├── ModelRefused               503   a model server refuses how it is asked: key, model or dialect are wrong
        └── UnscoredCandidates         503   a judge still owes scores; names the candidate sets that wait for them

Each class carries the HTTP status and the stable code under which a service reports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar


class FashionDPOError(Exception):
    """Root of the tree; `status` is the HTTP status, `code` the stable name on the wire."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"


class InvalidInput(FashionDPOError):
    """What was asked for cannot be done as it was asked."""

    status = 400
    code = "invalid_input"


class DataFileError(InvalidInput):
    """A data file is malformed.

    Args:
        path: the file.
        problem: what is wrong with it and what to do.
        line: 1-based line, where one is to blame.
    """

    code = "data_file"

    def __init__(self, path: Path | str, problem: str, *, line: int | None = None) -> None:
        self.path, self.problem, self.line = Path(path), problem, line
        super().__init__(f"{path}{f', line {line}' if line is not None else ''}: {problem}")


class ForbiddenPickle(DataFileError):
    """A data file asks to load something that index files never need."""

    code = "forbidden_pickle"


class InvalidIndex(DataFileError):
    """An index of items and outfits has faulty lines.

    Args:
        path: the index.
        problems: line number and what is wrong there, for the first of them.
        count: how many there are in all; None if these are all.
    """

    code = "invalid_index"

    def __init__(self, path: Path | str, problems: Sequence[tuple[int, str]], *, count: int | None = None) -> None:
        self.problems, self.count = tuple(problems), count if count is not None else len(problems)
        shown = "" if self.count == len(problems) else f", the first {len(problems)} are"
        lines = "".join(f"\n  line {line}: {problem}" for line, problem in self.problems)
        super().__init__(path, f"{self.count} problem{'' if self.count == 1 else 's'}{shown}:{lines}")


class MissingImages(InvalidInput):
    """Images named by the index are not in the image folder.

    Args:
        folder: where they were looked for.
        missing: what is missing, item ids or file names.
    """

    code = "missing_images"

    def __init__(self, folder: Path | str, missing: Sequence[object]) -> None:
        self.folder, self.missing = Path(folder), tuple(missing)
        named = ", ".join(str(name) for name in self.missing[:10])
        more = f" and {len(self.missing) - 10} more" if len(self.missing) > 10 else ""
        super().__init__(f"{len(self.missing)} item images are missing under {folder}: {named}{more}")


class InvalidBundle(InvalidInput):
    """A model folder lacks a part, or has one of the wrong shape."""

    code = "invalid_bundle"


class InvalidAdapter(InvalidInput):
    """Adapter weights of another format, rank or base model, or with non-finite values."""

    code = "invalid_adapter"


class TooLarge(InvalidInput):
    """A request, a picture or a batch is above its limit; the message names both."""

    status = 413
    code = "too_large"


class Unauthorized(FashionDPOError):
    """No API key was given, or one that is not known."""

    status = 401
    code = "unauthorized"


class Forbidden(FashionDPOError):
    """The API key lacks the scope that this needs."""

    status = 403
    code = "forbidden"


class NotFound(FashionDPOError):
    """Nothing is stored under that name."""

    status = 404
    code = "not_found"


class UnknownItem(NotFound):
    """An item id that the catalogue does not hold."""

    code = "unknown_item"

    def __init__(self, item_id: int, catalogue: str) -> None:
        self.item_id = item_id
        super().__init__(f"item {item_id} is not in the catalogue {catalogue!r}")


class Conflict(FashionDPOError):
    """The same name was used for different content."""

    status = 409
    code = "conflict"


class PolicyMismatch(Conflict):
    """A trajectory was made by another policy, or with other settings, than the one to train."""

    code = "policy_mismatch"


class LeaseLost(Conflict):
    """Somebody else holds the lease now: what a late holder writes is refused, so that nothing is done twice."""

    code = "lease_lost"


class Overloaded(FashionDPOError):
    """More work than there is room for.

    Args:
        problem: what is full.
        retry_after_s: seconds after which trying again makes sense.
    """

    status = 429
    code = "overloaded"

    def __init__(self, problem: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(problem)


class CorruptArtifact(FashionDPOError):
    """Stored bytes no longer match the digest under which they were stored."""

    code = "corrupt_artifact"


class TrainingDiverged(FashionDPOError):
    """A gradient is no longer finite; the last checkpoint is kept."""

    code = "training_diverged"


class TrainingProcessFailed(FashionDPOError):
    """One of the processes that train together has failed or disagrees with the others; the last checkpoint is kept."""

    code = "training_process_failed"


class Cancelled(FashionDPOError):
    """Somebody asked for the work to stop; what was finished is kept."""

    status = 499
    code = "cancelled"


class UnparseableAnswer(FashionDPOError):
    """A vision-language model chose none of the levels.

    Args:
        problem: what is wrong with the answer.
        said: the answer, where it was text.
    """

    status = 502
    code = "unparseable_answer"

    def __init__(self, problem: str, *, said: str = "") -> None:
        self.said = said
        super().__init__(problem)


class Unavailable(FashionDPOError):
    """Something this depends on does not answer; trying again later may help."""

    status = 503
    code = "unavailable"


class DeadlineExceeded(Unavailable):
    """The work was not done within the time that the caller gave it; what was begun was stopped."""

    code = "deadline_exceeded"


class ModelRefused(Unavailable):
    """A model server refuses how it is asked: its key, its model or its dialect is set wrong. Mended by settings.

    Args:
        problem: what it says.
        answered: its HTTP status.
    """

    code = "model_refused"

    def __init__(self, problem: str, *, answered: int) -> None:
        self.answered = answered
        super().__init__(problem)


class UnscoredCandidates(Unavailable):
    """A judge still owes scores: the candidate sets are not ready to be compared.

    Args:
        set_ids: the sets that wait.
        criteria: the criteria that are owed.
    """

    code = "unscored_candidates"

    def __init__(self, set_ids: Sequence[str], criteria: Sequence[str]) -> None:
        self.set_ids, self.criteria = tuple(set_ids), tuple(criteria)
        named = ", ".join(self.set_ids[:5])
        more = f" and {len(self.set_ids) - 5} more" if len(self.set_ids) > 5 else ""
        super().__init__(
            f"{len(self.set_ids)} candidate sets wait for scores of {', '.join(self.criteria)}: {named}{more}; "
            "let the judges finish, or record why they cannot"
        )
