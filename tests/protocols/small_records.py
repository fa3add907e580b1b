"""Records with just enough in them, for tests of what keeps records."""

from __future__ import annotations

from fashiondpo.contracts import (
    AdapterRef,
    Candidate,
    CandidateSet,
    GuidanceScales,
    Outfit,
    RoundRecord,
    SamplerSettings,
    Score,
    content_digest,
    content_ref,
)


def make_set(
    set_id: str = "s1", *, candidates: int = 3, category_scale: float = 12.0, adapter_version: int = 0
) -> CandidateSet:
    return CandidateSet(
        set_id=set_id,
        outfit=Outfit(outfit_id=4, user_id=2, category_ids=(1, 2, 3, 4), item_ids=(10, None, 30, 40)),
        slot=1,
        candidates=tuple(
            Candidate(
                candidate_id=f"{set_id}-{k}",
                index=k,
                seed=2**62 + k,
                image=content_ref(f"{set_id}/{k}".encode(), "png"),
            )
            for k in range(candidates)
        ),
        sampler=SamplerSettings(guidance=GuidanceScales(category=category_scale)),
        base_digest=content_digest(b"base"),
        adapter=make_adapter(adapter_version),
    )


def make_adapter(version: int) -> AdapterRef:
    return AdapterRef(version=version, digest=content_digest(str(version).encode()) if version else None)


def make_score(candidate_id: str, value: float | None = 1.0, criterion: str = "quality", **fields: object) -> Score:
    reason = "the judge did not answer" if value is None else None
    return Score.model_validate(
        {"candidate_id": candidate_id, "criterion": criterion, "judge_version": "1", "value": value, "reason": reason}
        | fields
    )


def make_round(round_id: str = "r1", **fields: object) -> RoundRecord:
    return RoundRecord.model_validate({"round_id": round_id, "seed": 7} | fields)
