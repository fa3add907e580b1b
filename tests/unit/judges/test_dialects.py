"""What model servers are asked in each dialect, and what is made of their answers, without a server."""

import base64
import json
import math

import pytest

from fashiondpo.errors import Unavailable, UnparseableAnswer
from fashiondpo.judges.dialects import DIALECTS, dialect
from fashiondpo.judges.rubric import quality_rubric
from tests.model_server import completion, decision

RUBRIC = quality_rubric(5)
PNG = b"not really a picture"
CHAT = [name for name in DIALECTS if name != "transformers"]


def asked(name: str, wrong: str | None = None) -> dict:
    return dict(dialect(name).request(RUBRIC, "the-model", PNG, wrong).body)


class TestQuestion:
    @pytest.mark.parametrize("name", CHAT)
    def test_is_the_picture_and_the_prompt_in_one_message_without_chance(self, name):
        body = asked(name)
        (message,) = body["messages"]
        picture, text = message["content"]
        assert base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,")) == PNG
        assert text == {"type": "text", "text": RUBRIC.prompt}
        assert (body["model"], body["temperature"]) == ("the-model", 0)

    @pytest.mark.parametrize("name", CHAT)
    def test_after_a_wrong_answer_goes_on_with_it_and_a_reminder(self, name):
        first, said, reminder = asked(name, "A nice shirt. " * 100)["messages"]
        assert first == asked(name)["messages"][0]
        assert (said["role"], len(said["content"])) == ("assistant", 200)
        assert reminder["content"].endswith(RUBRIC.reminder)

    @pytest.mark.parametrize("name", DIALECTS)
    def test_can_be_sent_as_json(self, name):
        assert json.loads(json.dumps(asked(name))) == asked(name)

    def test_of_an_unknown_dialect_is_refused(self):
        with pytest.raises(ValueError, match=r"unknown dialect 'tgi': choose one of vllm, vllm-legacy, llama\.cpp"):
            dialect("tgi")


class TestConstraint:
    def test_of_vllm_is_a_choice(self):
        assert asked("vllm")["structured_outputs"] == {"choice": ["A", "B", "C", "D", "E"]}
        assert "guided_choice" not in asked("vllm")

    def test_of_an_older_vllm_is_a_guided_choice(self):
        assert asked("vllm-legacy")["guided_choice"] == ["A", "B", "C", "D", "E"]
        assert "structured_outputs" not in asked("vllm-legacy")

    def test_of_llama_cpp_is_a_grammar(self):
        assert asked("llama.cpp")["grammar"] == 'root ::= "A" | "B" | "C" | "D" | "E"'

    def test_of_ollama_is_a_schema_with_the_labels(self):
        schema = asked("ollama")["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["label"]["enum"] == ["A", "B", "C", "D", "E"]

    def test_of_transformers_is_a_question_with_a_level_for_each_meaning(self):
        request = dialect("transformers").request(RUBRIC, "m", PNG, None)
        (question,) = request.body["questions"].values()
        assert request.path == "/v1/systemone"
        assert question == {"type": "score", "instructions": RUBRIC.question, "criteria": list(RUBRIC.meanings)}
        (picture,) = request.body["assets"].values()
        assert base64.b64decode(picture["data_base64"]) == PNG
        assert request.body["state"] in request.body["assets"]

    def test_of_none_is_nothing_and_no_log_probabilities_are_asked_for(self):
        assert set(asked("none")) == {"model", "messages", "temperature", "max_tokens"}

    @pytest.mark.parametrize("name", ["vllm", "vllm-legacy", "llama.cpp", "ollama"])
    def test_comes_with_the_wish_for_log_probabilities(self, name):
        assert (asked(name)["logprobs"], asked(name)["top_logprobs"]) == (True, 20)


class TestAnswerOfAChat:
    @pytest.mark.parametrize("name", CHAT)
    def test_with_log_probabilities_is_the_expected_level(self, name):
        told = completion("D", {"D": math.log(0.5), "C": math.log(0.25), "The": math.log(0.25)})
        scored = dialect(name).read(RUBRIC, told)
        assert scored.value == pytest.approx((4 * 0.5 + 3 * 0.25) / 0.75)
        assert (scored.diagnostics["by"], scored.diagnostics["label_mass"]) == ("probabilities", pytest.approx(0.75))

    def test_adds_up_the_tokens_of_one_letter(self):
        told = completion("B", {"B": math.log(0.3), " B": math.log(0.3), "▁A": math.log(0.4)})
        assert dialect("vllm").read(RUBRIC, told).value == pytest.approx(0.6 * 2 + 0.4 * 1)

    @pytest.mark.parametrize("name", CHAT)
    def test_without_them_is_the_level_of_the_label(self, name):
        scored = dialect(name).read(RUBRIC, completion("D"))
        assert (scored.value, scored.diagnostics["by"]) == (4.0, "label")

    def test_in_json_is_read_at_the_token_of_the_letter(self):
        tokens = [
            ('{"', {'{"': -0.1}),
            ('label":"', {"x": -0.1}),
            ("C", {"C": math.log(0.5), "E": math.log(0.5)}),
            ('"}', {}),
        ]
        told = completion('{"label":"C"}', tokens=tokens)
        assert dialect("ollama").read(RUBRIC, told).value == pytest.approx(4.0)

    @pytest.mark.parametrize("said", ["C", " C\n", "C.", "(C)", "**C**", '"C"', '{"label": "C"}'])
    def test_that_is_one_letter_is_that_letter(self, said):
        assert dialect("none").read(RUBRIC, completion(said)).value == 3.0

    @pytest.mark.parametrize(
        "said",
        [
            "A good picture.",
            "I would say C",
            "C or D",
            "c",
            "F",
            "3",
            "",
            "{}",
            '{"label": 3}',
            "[]",
            "CC",
            "The answer is: B",
        ],
    )
    def test_that_is_prose_a_number_or_another_letter_is_none_and_nothing_is_guessed(self, said):
        with pytest.raises(UnparseableAnswer, match="expected one letter from A to E") as caught:
            dialect("none").read(RUBRIC, completion(said))
        assert caught.value.said == said

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_with_log_probabilities_that_are_no_numbers_is_none(self, value):
        with pytest.raises(UnparseableAnswer):
            dialect("vllm").read(RUBRIC, completion("C", {"C": value, "B": -1.0}))

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"{}",
            b'{"choices": []}',
            b'{"choices": [{}]}',
            b'{"choices": [{"message": "C"}]}',
            b"null",
        ],
    )
    def test_of_another_shape_is_no_answer_of_a_model_server(self, content):
        with pytest.raises(Unavailable, match="the model server's answer is none"):
            dialect("vllm").read(RUBRIC, content)

    def test_without_any_text_is_none(self):
        with pytest.raises(UnparseableAnswer):
            dialect("vllm").read(RUBRIC, b'{"choices": [{"message": {"content": null}}]}')


class TestAnswerOfTransformers:
    def test_is_the_expected_level_of_its_probabilities(self):
        scored = dialect("transformers").read(RUBRIC, decision([0.1, 0.0, 0.2, 0.3, 0.4]))
        assert scored.value == pytest.approx(0.1 + 0.6 + 1.2 + 2.0)
        assert scored.diagnostics["label"] == "E"

    def test_does_not_tell_how_much_the_model_wanted_to_answer(self):
        assert "label_mass" not in dialect("transformers").read(RUBRIC, decision([0.2] * 5)).diagnostics

    @pytest.mark.parametrize("values", [[0.5, 0.5], [0.1] * 10])
    def test_about_another_scale_is_no_answer(self, values):
        with pytest.raises(Unavailable, match="not of 5 levels"):
            dialect("transformers").read(RUBRIC, decision(values))

    def test_about_another_question_is_no_answer(self):
        with pytest.raises(Unavailable, match="was asked about 'quality'"):
            dialect("transformers").read(RUBRIC, decision([0.2] * 5, question="weather"))

    @pytest.mark.parametrize("value", [math.nan, -0.5, 3.0])
    def test_with_probabilities_that_are_none_is_none(self, value):
        with pytest.raises(UnparseableAnswer, match="probabilities that are none"):
            dialect("transformers").read(RUBRIC, decision([0.2, 0.2, 0.2, 0.2, value]))
