"""The requests that the README shows are ones that the services take."""

import json
import re

import pytest
from pydantic import BaseModel

from fashiondpo.messages import FeedbackRequest, GenerateRequest, ScoreRequest
from fashiondpo.run_settings import TrainRequest
from tests.architecture.checkout import ROOT

BODIES: dict[str, type[BaseModel]] = {
    "generate": GenerateRequest,
    "score": ScoreRequest,
    "train": TrainRequest,
    "feedback": FeedbackRequest,
}
SHOWN = re.findall(
    r"curl \S+ http://[\d.]+:\d+/(\w+) -H '[^']+' -d '(.+?)'", (ROOT / "README.md").read_text(), re.DOTALL
)


def test_the_readme_shows_a_request_to_every_endpoint_that_takes_one():
    assert {endpoint for endpoint, _ in SHOWN} == set(BODIES)


@pytest.mark.parametrize(("endpoint", "body"), SHOWN, ids=[endpoint for endpoint, _ in SHOWN])
def test_requests_of_the_readme_are_accepted(endpoint, body):
    filled_in = body.replace("<set>", "set-1")
    assert BODIES[endpoint].model_validate(json.loads(filled_in))
