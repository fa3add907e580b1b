"""The OpenAPI document says what the generator does, whatever is thrown at it, one request or several in a row."""

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.generator_calls import CHIEF, KEYS, bearer

# Which items, categories, artifacts and versions there are is no matter of a schema: such requests are refused with
# the reason.
BEYOND_SCHEMAS = [positive_data_acceptance]
AS_CHIEF = bearer(CHIEF)
QUICK = hypothesis.settings(
    max_examples=8, stateful_step_count=5, phases=(Phase.explicit, Phase.generate), deadline=None,
    suppress_health_check=list(HealthCheck), derandomize=True, database=None,
)  # fmt: skip
ITEMS, CATEGORIES = 500, 10


def within_reason(body: object) -> object:
    """A request for pictures that may well exist, in few steps; anything else stays as malformed as it is."""
    if not isinstance(body, dict) or not isinstance(body.get("outfits"), list):
        return body
    body["sampler"] = {"num_inference_steps": 2}
    for outfit in body["outfits"]:
        for slot in (
            outfit.get("slots", ()) if isinstance(outfit, dict) and isinstance(outfit.get("slots"), list) else ()
        ):
            if isinstance(slot, dict):
                for name, count in (("item_id", ITEMS), ("category_id", CATEGORIES)):
                    if isinstance(slot.get(name), int) and not isinstance(slot[name], bool):
                        slot[name] %= count
    return body


@pytest.fixture(scope="module")
def settings():
    return {"api_keys": KEYS}


@pytest.fixture
def schema(generator):
    """The document of a running generator."""
    schema = schemathesis.openapi.from_url(f"{generator.url}/openapi.json")
    schema.hook("map_body")(lambda _context, body: within_reason(body))
    return schema


class TestDocument:
    def test_says_what_every_answer_to_one_request_is(self, schema):
        operations = [result.ok() for result in schema.get_all_operations()]
        assert len(operations) > 10
        for operation in operations:

            @QUICK
            @given(case=operation.as_strategy())
            def ask(case):
                case.call_and_validate(headers=AS_CHIEF, excluded_checks=BEYOND_SCHEMAS, timeout=60)

            ask()

    def test_says_what_every_answer_in_a_conversation_is(self, schema):
        class Conversation(schema.as_state_machine()):
            def get_call_kwargs(self, case):
                return {"headers": AS_CHIEF, "timeout": 60}

            def validate_response(self, response, case, additional_checks=None, **options):
                case.validate_response(response, excluded_checks=BEYOND_SCHEMAS, headers=AS_CHIEF)

        Conversation.run(settings=QUICK)
