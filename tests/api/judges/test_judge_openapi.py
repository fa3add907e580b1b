"""The judges' OpenAPI documents say what the services do, whatever is thrown at them."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.api.judges.judge_apps import JUDGES
from tests.api.small_service import KEYS, PAINTER, bearer
from tests.polling import eventually

QUICK = settings(max_examples=10, phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def open_document(open_app):
    """The document of a judge that is ready, bound to the service."""
    opened = {}

    def document(criterion: str):
        if criterion not in opened:
            schema = schemathesis.openapi.from_asgi("/openapi.json", open_app(criterion, api_keys=KEYS))
            eventually(lambda: schema["/readyz"]["GET"].Case().call().status_code == 200, within_s=120)
            opened[criterion] = schema
        return opened[criterion]

    return document


def consistent(body: dict) -> dict:
    """The same request with what no schema can say: one picture per garment, slots by number, an item per category."""
    for item in body["candidates"]:
        outfit = item["outfit"]
        slots = len(outfit["category_ids"])
        outfit["item_ids"] = (outfit["item_ids"] * slots)[:slots]
        outfit.pop("item_images", None)
        item["given_images"] = {str(slot): text for slot, text in enumerate(item.get("given_images", {}).values())}
        _keep_one_picture(item)
        for garment in item.get("history") or ():
            _keep_one_picture(garment)
    return body


def _keep_one_picture(garment: dict) -> None:
    kept = next((name for name in ("image", "artifact", "item_id") if garment.get(name) is not None), "item_id")
    garment.setdefault(kept, 1)
    garment[kept] = 1 if garment[kept] is None else garment[kept]
    for name in {"image", "artifact", "item_id"} - {kept}:
        garment.pop(name, None)


@pytest.mark.parametrize("criterion", JUDGES)
class TestEveryAnswerIsAsDocumented:
    def test_to_what_the_document_allows(self, open_document, criterion):
        for operation in operations(open_document(criterion)):

            @QUICK
            @given(case=operation.as_strategy())
            def answers_as_documented(case):
                if case.path == "/score":
                    case.body = consistent(case.body)
                case.call_and_validate(headers=bearer(PAINTER))

            answers_as_documented()

    def test_to_what_it_does_not_allow(self, open_document, criterion):
        score = open_document(criterion)["/score"]["POST"]

        @QUICK
        @given(case=score.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def answers_as_documented(case):
            case.call_and_validate(headers=bearer(PAINTER))

        answers_as_documented()


def operations(schema):
    """Every operation of the document."""
    return [found.ok() for found in schema.get_all_operations()]
