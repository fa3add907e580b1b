"""POST /feedback over HTTP: people's votes become one more score."""

from __future__ import annotations

import pytest

from tests.api.trainer.trainer_api import recorded_set


@pytest.fixture
def set_id(api) -> str:
    candidate_set = recorded_set("shown")
    api.stores.feedback.put_set("traffic", candidate_set)
    return candidate_set.set_id


def vote(api, set_id: str, voter: str, **values: float):
    votes = [{"candidate_id": f"{set_id}-{name[1:]}", "value": value} for name, value in values.items()]
    return api.client.post("/feedback", json={"set_id": set_id, "voter_id": voter, "votes": votes})


class TestVoting:
    def test_makes_votes_a_score_of_each_candidate(self, api, set_id):
        vote(api, set_id, "ann", k0=1, k1=-1)
        body = vote(api, set_id, "ben", k0=1).json()
        assert body["voters"] == 2
        assert [score["value"] for score in body["scores"]] == [1, -0.5, 0]
        assert api.stores.feedback.scored(set_id).value(f"{set_id}-0", "votes") == 1

    def test_again_replaces_the_person_s_own_votes(self, api, set_id):
        vote(api, set_id, "ann", k0=1)
        body = vote(api, set_id, "ann", k0=-1).json()
        assert (body["voters"], body["scores"][0]["value"]) == (1, -1)

    def test_keeps_no_name(self, api, set_id):
        text = vote(api, set_id, "ann@example.com", k0=1).text
        assert "ann@example.com" not in text + str(api.stores.votes.__dict__)

    def test_on_an_unknown_set_is_not_found(self, api):
        assert vote(api, "nowhere", "ann", k0=1).status_code == 404

    def test_on_a_candidate_of_another_set_is_refused(self, api, set_id):
        assert vote(api, set_id, "ann", k9=1).status_code == 400

    @pytest.mark.parametrize("value", [2, -2, None, "good"])
    def test_outside_its_range_is_malformed(self, api, set_id, value):
        assert vote(api, set_id, "ann", k0=value).status_code == 422
