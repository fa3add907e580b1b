"""Quality by MiniCPM-V 4.6 in this process, with transformers' own classes: no code of the model's is executed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from PIL import Image as Pillow
from safetensors import SafetensorError
from torch import Tensor

from fashiondpo.contracts import JudgeInfo, Score
from fashiondpo.errors import FashionDPOError, InvalidBundle
from fashiondpo.judges.base import JudgeInput, Outcome, Unscored, check_input, to_scores, unscored
from fashiondpo.judges.rubric import Rubric, scored_by_probabilities
from fashiondpo.judges.weights import read_config
from fashiondpo.outfits.model import Image

MODEL_TYPE = "minicpmv4_6"
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
_HASHED = ("*.safetensors", "*.json", "*.jinja")
_PIECE = 2**24


class MiniCPMQualityJudge:
    """Expected quality level of each picture by itself: one forward per batch, read at its last position."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        rubric: Rubric,
        name: str,
        batch: int = 8,
        device: torch.device | str = "cpu",
    ) -> None:
        """Take over a model; it computes on `device`.

        Args:
            model: MiniCPMV4_6ForConditionalGeneration.
            processor: its MiniCPMV4_6Processor.
            rubric: what is asked.
            name: of these weights; part of the judge's version.
            batch: pictures in one forward.
            device: where the model computes.

        Raises:
            InvalidBundle: if a label is not a single token, so that one position would not tell its probability, or the
                processor does not know how a question is put.
        """
        if not processor.chat_template:
            raise InvalidBundle("the processor has no chat template (chat_template.jinja)")
        self._model, self._processor = model.to(device).eval().requires_grad_(False), processor
        self._rubric, self._batch, self._device = rubric, batch, torch.device(device)
        self._label_ids = torch.tensor(label_tokens(processor.tokenizer, rubric.labels), device=self._device)
        self._text = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": rubric.prompt}]}],
            add_generation_prompt=True,
            # templates that know no such switch ignore it; with thinking the letter would not come next
            enable_thinking=False,
        )
        dtype = str(model.dtype).removeprefix("torch.")
        version = f"{name}+{dtype}+{rubric.version}"
        self._info = JudgeInfo(criterion="quality", version=version, low=1, high=rubric.levels)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        rubric: Rubric,
        batch: int = 8,
        device: torch.device | str = "cpu",
        dtype: DtypeName = "auto",
    ) -> Self:
        """Load what a model hub has: config, weights as safetensors, tokenizer, processor.

        Args:
            folder: with all of it.
            rubric, batch, device: as for the constructor.
            dtype: of the weights; auto: bfloat16 on a GPU, float32 on a CPU.

        Raises:
            InvalidBundle: if the folder holds another model, lacks a part, or has tensors that are not the model's.
        """
        found = read_config(folder).get("model_type")
        if found != MODEL_TYPE:
            raise InvalidBundle(
                f"{folder} holds a {found!r}, expected a {MODEL_TYPE!r} (MiniCPM-V 4.6); "
                "let a model server serve other models, and ask it with the remote backend"
            )
        # seconds to import, and not needed to refuse a folder
        from transformers import AutoProcessor, MiniCPMV4_6ForConditionalGeneration

        try:
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model, loaded = MiniCPMV4_6ForConditionalGeneration.from_pretrained(
                folder,
                dtype=_dtype(dtype, device),
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
            raise InvalidBundle(f"{folder} does not hold a whole MiniCPM-V 4.6: {error}") from error
        # a tensor that is missing would otherwise be made up
        if wrong := {kind: sorted(map(str, loaded[kind])) for kind in _FAULTS if loaded[kind]}:
            told = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(names[:5])}" for kind, names in wrong.items())
            raise InvalidBundle(f"{folder} does not hold the weights of this model: {told}")
        name = f"minicpm-v-4.6-{folder_digest(folder)[:12]}"
        return cls(model, processor, rubric=rubric, name=name, batch=batch, device=device)

    @property
    def info(self) -> JudgeInfo:
        """Criterion, version and range."""
        return self._info

    def score(self, inputs: Sequence[JudgeInput]) -> list[Score]:
        """One score per candidate, in order; diagnostics have the likeliest label and how sure the model was."""
        outcomes: list[Outcome] = [Unscored("")] * len(inputs)
        ready: list[int] = []
        for row, judge_input in enumerate(inputs):
            try:
                check_input(judge_input)
                ready.append(row)
            except FashionDPOError as error:
                outcomes[row] = unscored(error)
        for start in range(0, len(ready), self._batch):
            rows = ready[start : start + self._batch]
            log_probs = self.label_log_probs([inputs[row].image for row in rows])
            for row, of_row in zip(rows, log_probs.tolist(), strict=True):
                outcomes[row] = self._outcome(of_row)
        return to_scores(inputs, self._info, outcomes)

    def _outcome(self, log_probs: Sequence[float]) -> Outcome:
        try:
            return scored_by_probabilities(self._rubric, dict(zip(self._rubric.labels, log_probs, strict=True)))
        except FashionDPOError as error:
            return unscored(error)

    @torch.inference_mode()
    def label_log_probs(self, images: Sequence[Image]) -> Tensor:
        """What the model would say next after the question about each picture, in one forward.

        Args:
            images: each (height, width, 3), uint8; large ones are cut into slices, so their texts differ in length.

        Returns:
            Log-probabilities of the labels among all tokens, shape (images, levels), float32, on the CPU.
        """
        inputs = self._processor(
            images=[[Pillow.fromarray(image)] for image in images],
            text=[self._text] * len(images),
            padding=True,
            # the last position is then the last word of every text, however long it is
            padding_side="left",
            return_tensors="pt",
        ).to(self._device)
        hidden = self._model.model(**inputs, use_cache=False).last_hidden_state[:, -1]
        # the head for one position only: for all of them the vocabulary would fill the memory
        logits = self._model.lm_head(hidden).float()
        return torch.log_softmax(logits, dim=-1)[:, self._label_ids].cpu()


_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys")


def label_tokens(tokenizer: Any, labels: Sequence[str]) -> list[int]:
    """The token of each label.

    Raises:
        InvalidBundle: if a label is several tokens, unknown, or the same as another.
    """
    ids = [tokenizer.encode(label, add_special_tokens=False) for label in labels]
    several = [label for label, found in zip(labels, ids, strict=True) if len(found) != 1]
    if several:
        raise InvalidBundle(f"the tokenizer has no single token for the labels {', '.join(several)}")
    tokens = [found[0] for found in ids]
    if len(set(tokens)) != len(tokens) or tokenizer.unk_token_id in tokens:
        raise InvalidBundle(f"the tokenizer does not tell the labels {', '.join(labels)} apart: {tokens}")
    return tokens


def folder_digest(folder: Path) -> str:
    """SHA-256 over the files that decide what a model says, in hexadecimal; the same wherever the folder lies."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _HASHED for path in folder.glob(pattern)):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()


def _dtype(name: DtypeName, device: torch.device | str) -> torch.dtype:
    if name == "auto":
        return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
