"""The local quality judge: the real classes of MiniCPM-V 4.6, tiny and untrained."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import MiniCPMV4_6ForConditionalGeneration, MiniCPMV4_6Processor, PreTrainedTokenizerFast

from fashiondpo.errors import InvalidBundle
from fashiondpo.judges.base import Judge, JudgeInput
from fashiondpo.judges.minicpm import MiniCPMQualityJudge, folder_digest, label_tokens
from fashiondpo.judges.rubric import quality_rubric
from tests.reference import judge_formulas as reference
from tests.tiny_vlm import save_tiny_vlm, tiny_tokenizer
from tests.unit.judges.small_world import outfit

# Rounding: a row is padded to the longest text of its batch, which moves the chunks in which linear attention sums.
TOLERANCE = 2e-4
SIZES = [(32, 32), (80, 56), (56, 120), (64, 64), (30, 200), (56, 56)]
RUBRIC = quality_rubric(10)


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in SIZES]


def inputs(images) -> list[JudgeInput]:
    return [JudgeInput(f"c-{n}", outfit(None, 1, 2, 3), 0, image) for n, image in enumerate(images)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_vlm(tmp_path_factory.mktemp("vlm") / "tiny")


@pytest.fixture(scope="module")
def judge(folder) -> MiniCPMQualityJudge:
    return MiniCPMQualityJudge.load(folder, rubric=RUBRIC)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


class TestMiniCPMQualityJudge:
    def test_is_a_judge_of_quality_on_the_levels_of_its_rubric(self, judge, folder):
        assert isinstance(judge, Judge)
        assert (judge.info.criterion, judge.info.low, judge.info.high) == ("quality", 1, 10)
        assert MiniCPMQualityJudge.load(folder, rubric=quality_rubric(5)).info.high == 5

    def test_gives_the_expected_level_of_what_the_model_would_generate_next(self, judge, folder):
        model = MiniCPMV4_6ForConditionalGeneration.from_pretrained(folder).eval()
        processor = MiniCPMV4_6Processor.from_pretrained(folder)
        image = pictures()[1]
        chat = [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": Pillow.fromarray(image)},
                    {"type": "text", "text": RUBRIC.prompt},
                ],
            }
        ]
        asked = processor.apply_chat_template(
            chat,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            enable_thinking=False,
        )
        made = model.generate(
            **asked, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        log_probs = torch.log_softmax(made.logits[0][0].double(), -1)[label_tokens(processor.tokenizer, RUBRIC.labels)]
        (score,) = judge.score(inputs([image]))
        assert score.value == pytest.approx(reference.expected_level(log_probs.tolist()), abs=TOLERANCE)
        assert score.diagnostics["entropy"] == pytest.approx(reference.shannon_entropy(log_probs), abs=TOLERANCE)
        assert score.diagnostics["label_mass"] == pytest.approx(float(log_probs.exp().sum()), abs=TOLERANCE)

    def test_does_not_depend_on_the_batch(self, judge, folder):
        images = pictures()
        alone = [judge.score([one])[0].value for one in inputs(images)]
        assert len({round(value, 3) for value in alone}) > 3
        for batch in (2, 3, 6):
            together = MiniCPMQualityJudge.load(folder, rubric=RUBRIC, batch=batch).score(inputs(images))
            assert [score.value for score in together] == pytest.approx(alone, abs=TOLERANCE)
        backwards = judge.score(inputs(images[::-1]))
        assert [score.value for score in backwards[::-1]] == pytest.approx(alone, abs=TOLERANCE)

    def test_would_depend_on_the_batch_if_it_were_padded_on_the_other_side(self, judge, monkeypatch):
        images = pictures()
        right = judge.label_log_probs(images[:2])
        processor = judge._processor
        monkeypatch.setattr(judge, "_processor", lambda **given: processor(**{**given, "padding_side": "right"}))
        wrong = judge.label_log_probs(images[:2])
        # the first text is the shorter one: its last position is padding now
        assert (wrong[0] - right[0]).abs().max() > 100 * TOLERANCE
        torch.testing.assert_close(wrong[1], right[1], atol=TOLERANCE, rtol=0)

    def test_makes_one_forward_for_each_batch(self, folder, monkeypatch):
        judge = MiniCPMQualityJudge.load(folder, rubric=RUBRIC, batch=4)
        forwards, forward = [], judge._model.model.forward
        monkeypatch.setattr(judge._model.model, "forward", lambda **given: forwards.append(1) or forward(**given))
        judge.score(inputs(pictures()))
        assert len(forwards) == 2  # six pictures, four at most in one

    def test_sees_the_picture(self, judge):
        black, white = (np.full((56, 56, 3), value, np.uint8) for value in (0, 255))
        first, second = judge.score(inputs([black, white]))
        assert abs(first.value - second.value) > 10 * TOLERANCE

    def test_keeps_the_order_and_tells_what_it_cannot_score(self, judge):
        images = pictures()[:2]
        scores = judge.score([*inputs(images), JudgeInput("bad", outfit(None, 1, 2, 3), 0, np.zeros((4, 4), np.uint8))])
        assert [(score.candidate_id, score.value is None) for score in scores] == [
            ("c-0", False), ("c-1", False), ("bad", True),
        ]  # fmt: skip

    def test_nothing_in_nothing_out(self, judge):
        assert judge.score([]) == []

    def test_output_that_is_not_finite_is_no_score(self, copy):
        weights = load_file(copy / "model.safetensors")
        weights["model.language_model.norm.weight"].fill_(torch.nan)
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        (score,) = MiniCPMQualityJudge.load(copy, rubric=RUBRIC).score(inputs(pictures()[:1]))
        assert score.value is None
        assert score.reason.startswith("unparseable_answer")

    def test_computes_in_the_type_it_is_told(self, folder):
        half = MiniCPMQualityJudge.load(folder, rubric=RUBRIC, dtype="bfloat16")
        assert half._model.dtype == torch.bfloat16
        (score,) = half.score(inputs(pictures()[:1]))
        assert 1 <= score.value <= 10


class TestVersion:
    def test_names_the_weights_the_type_and_the_rubric(self, judge, folder):
        expected = f"minicpm-v-4.6-{folder_digest(folder)[:12]}+float32+{RUBRIC.version}"
        assert judge.info.version == expected

    def test_is_another_for_other_weights_and_the_same_for_a_copy(self, copy, folder, tmp_path):
        assert folder_digest(copy) == folder_digest(folder)
        assert folder_digest(save_tiny_vlm(tmp_path / "other", seed=1)) != folder_digest(folder)

    def test_is_another_for_another_chat_template(self, copy, folder):
        with (copy / "chat_template.jinja").open("a") as file:
            file.write(" ")
        assert folder_digest(copy) != folder_digest(folder)


class TestFolder:
    def test_of_another_model_is_refused_by_its_name(self, copy):
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"model_type": "llava"}))
        with pytest.raises(InvalidBundle, match="holds a 'llava'"):
            MiniCPMQualityJudge.load(copy, rubric=RUBRIC)

    @pytest.mark.parametrize("part", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
    def test_without_a_part_is_refused(self, copy, part):
        (copy / part).unlink()
        with pytest.raises(InvalidBundle, match="copy"):
            MiniCPMQualityJudge.load(copy, rubric=RUBRIC)

    def test_without_a_tensor_is_refused_and_nothing_is_made_up(self, copy):
        weights = load_file(copy / "model.safetensors")
        lost = next(name for name in weights if "merger" in name)
        del weights[lost]
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InvalidBundle, match="missing keys"):
            MiniCPMQualityJudge.load(copy, rubric=RUBRIC)

    def test_without_a_chat_template_is_refused(self, copy):
        (copy / "chat_template.jinja").unlink()
        config = json.loads((copy / "tokenizer_config.json").read_text())
        config.pop("chat_template", None)
        (copy / "tokenizer_config.json").write_text(json.dumps(config))
        with pytest.raises(InvalidBundle, match="no chat template"):
            MiniCPMQualityJudge.load(copy, rubric=RUBRIC)

    def test_with_a_truncated_file_is_refused(self, copy):
        content = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(InvalidBundle):
            MiniCPMQualityJudge.load(copy, rubric=RUBRIC)


class TestLabelTokens:
    def test_are_one_for_each_label(self):
        tokenizer = tiny_tokenizer()
        tokens = label_tokens(tokenizer, RUBRIC.labels)
        assert [tokenizer.decode([token]) for token in tokens] == list(RUBRIC.labels)

    def test_of_several_pieces_are_refused_by_name(self):
        with pytest.raises(InvalidBundle, match="no single token for the labels 10"):
            label_tokens(tiny_tokenizer(merges=0), ("9", "10"))

    def test_that_are_not_told_apart_are_refused(self):
        tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "A": 1}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        small = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
        with pytest.raises(InvalidBundle, match="does not tell the labels"):
            label_tokens(small, ("A", "B"))
