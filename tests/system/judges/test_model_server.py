"""The remote quality judge against `transformers serve`, with tiny models of real classes behind it."""

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from transformers import AutoProcessor, LlavaForConditionalGeneration

from fashiondpo.clients.vlm import ModelServerClient
from fashiondpo.judges.base import JudgeInput
from fashiondpo.judges.remote_quality import RemoteQualityJudge
from fashiondpo.judges.rubric import quality_rubric
from tests.model_server import transformers_serve
from tests.reference import judge_formulas as reference
from tests.tiny_vlm import save_tiny_llava, save_tiny_vlm
from tests.unit.judges.small_world import outfit

pytestmark = pytest.mark.slow
RUBRIC = quality_rubric(10)


def inputs(count: int) -> list[JudgeInput]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 56, 56, 3), np.uint8)
    return [JudgeInput(f"c-{n}", outfit(None, 1, 2, 3), 0, image) for n, image in enumerate(images)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return {"llava": save_tiny_llava(folder / "llava"), "minicpm": save_tiny_vlm(folder / "minicpm")}


@pytest.fixture(scope="module")
def llava(models):
    with transformers_serve(models["llava"]) as url, ModelServerClient(url) as client:
        yield client


@pytest.fixture(scope="module")
def minicpm(models):
    with transformers_serve(models["minicpm"]) as url, ModelServerClient(url) as client:
        yield client


def judge(client, model, dialect: str, **options) -> RemoteQualityJudge:
    return RemoteQualityJudge(client, model=str(model), rubric=RUBRIC, dialect_name=dialect, **options)


def level_in_this_process(folder, image: np.ndarray) -> float:
    """What the served model says to the server's prompt, without the server."""
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    lines = [f"{label}. {meaning}" for label, meaning in zip(RUBRIC.labels, RUBRIC.meanings, strict=True)]
    text = "\n\n" + "\n".join(
        [RUBRIC.question, *lines, "Answer with the letter of the level that fits best (A to J) only."]
    )
    chat = [
        {
            "role": "user",
            "content": [{"type": "image", "image": Pillow.fromarray(image)}, {"type": "text", "text": text}],
        }
    ]
    asked = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", enable_thinking=False
    )
    with torch.inference_mode():
        logits = model(**asked).logits[0, -1].double()
    tokens = [processor.tokenizer.encode(label)[0] for label in RUBRIC.labels]
    return reference.expected_level(torch.log_softmax(logits[tokens], -1).tolist())


class TestTransformersServe:
    def test_tells_the_probabilities_of_all_levels_for_each_picture(self, llava, models):
        scores = judge(llava, models["llava"], "transformers").score(inputs(6))
        assert all(score.value is not None for score in scores), scores[0].reason
        assert {score.diagnostics["by"] for score in scores} == {"probabilities"}
        assert len({round(score.value, 4) for score in scores}) == 6
        again = judge(llava, models["llava"], "transformers", concurrency=1).score(inputs(6))
        assert [score.value for score in again] == pytest.approx([score.value for score in scores], abs=1e-6)

    def test_gives_the_expected_level_of_the_model_that_it_serves(self, llava, models):
        judged = inputs(2)
        scores = judge(llava, models["llava"], "transformers").score(judged)
        expected = [level_in_this_process(models["llava"], one.image) for one in judged]
        assert [score.value for score in scores] == pytest.approx(expected, abs=1e-3)

    def test_does_not_look_with_minicpm_and_is_found_out(self, minicpm, models):
        scores = judge(minicpm, models["minicpm"], "transformers").score(inputs(3))
        assert {score.is_final for score in scores} == {False}
        assert "answers the same to the last digit" in scores[0].reason

    def test_lets_an_untrained_minicpm_chatter_and_nothing_is_guessed(self, minicpm, models):
        scores = judge(minicpm, models["minicpm"], "none", tries=2).score(inputs(2))
        assert {score.reason.split(":")[0] for score in scores} == {"unparseable_answer"}

    def test_refuses_what_it_does_not_know_with_its_own_words(self, minicpm, models):
        (score,) = judge(minicpm, models["minicpm"], "vllm").score(inputs(1))
        assert (score.value, score.is_final) == (None, False)
        assert score.reason.startswith("model_refused:")
        assert "structured_outputs" in score.reason

    def test_that_serves_another_model_says_so(self, llava):
        (score,) = judge(llava, "another/model", "transformers").score(inputs(1))
        assert score.reason.startswith("model_refused:")
        assert "pinned" in score.reason

    def test_is_there(self, llava):
        assert llava.problem("/health") is None
