"""The OpenAPI document says what the service does, whatever is thrown at it, one request or several in a row."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from fashiondpo.storage.artifacts import MemoryArtifacts
from fashiondpo.storage.stores import memory_stores
from services.trainer.app import create_app
from services.trainer.queue import MemoryQueue
from services.trainer.settings import TrainerSettings
from tests.api.small_service import CHIEF, KEYS
from tests.unit.trainer.errands import squares_basis

# Which sizes, weights and hyper-parameters go together is no matter of a schema: such requests are refused with the reason.
BEYOND_SCHEMAS = [positive_data_acceptance]
AS_CHIEF = {"Authorization": f"Bearer {CHIEF}"}
QUICK = settings(
    max_examples=15,
    stateful_step_count=6,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


def service():
    return create_app(
        TrainerSettings(api_keys=KEYS),
        stores=memory_stores(MemoryArtifacts()),
        queue=MemoryQueue(),
        load=lambda _: squares_basis(),
    )


# Event streams of rounds that nobody works on have no end, and without Redis the service is, honestly, never ready.
schema = schemathesis.openapi.from_asgi("/openapi.json", service()).exclude(path_regex="/events$|/readyz$")


@schema.parametrize()
@QUICK
def test_every_answer_is_as_documented(case):
    case.call_and_validate(headers=AS_CHIEF, excluded_checks=BEYOND_SCHEMAS)


class Conversation(schema.as_state_machine()):
    """Requests that take up what earlier ones have answered."""

    def get_call_kwargs(self, case):
        return {"headers": AS_CHIEF}

    def validate_response(self, response, case, additional_checks=None, **options):
        case.validate_response(response, excluded_checks=BEYOND_SCHEMAS, headers=AS_CHIEF)


TestConversation = Conversation.TestCase
TestConversation.settings = QUICK
