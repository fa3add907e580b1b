"""POST /train and /rounds over HTTP: what is accepted, what is refused and why, and what readers see."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from fashiondpo.contracts import GateVerdict, Interval
from fashiondpo.errors import Unavailable
from services.trainer.orders import order_of
from services.trainer.round_ends import end_round
from tests.api.small_service import KEYS, PAINTER, READER, TRAINER
from tests.api.trainer.trainer_api import events

SMALL = {"outfits": 4, "gate_outfits": 30, "candidates": 3}


class TestStartingARound:
    def test_answers_202_and_says_where_the_round_is(self, api):
        response = api.client.post("/train", json=SMALL)
        assert response.status_code == 202
        assert response.headers["location"] == "/rounds/round-0001"
        assert api.client.get(response.headers["location"]).json() == response.json()

    def test_queues_its_first_slice_after_it_is_recorded(self, api):
        round_id = api.train(SMALL)["round_id"]
        assert api.queue.slices == [(round_id, 0)]
        assert api.stores.jobs.get(round_id).state == "queued"
        assert api.stores.feedback.round(round_id).stage == "collect"

    def test_counts_even_if_the_queue_does_not_answer(self, api, monkeypatch):
        def away(_round_id: str, _slice_number: int) -> None:
            raise Unavailable("the queue is away")

        monkeypatch.setattr(api.queue, "put", away)
        assert api.train(SMALL)["state"] == "queued"

    def test_numbers_rounds_as_offline(self, api):
        assert [api.train(SMALL)["round_id"] for _ in range(3)] == ["round-0001", "round-0002", "round-0003"]

    def test_without_wishes_takes_the_defaults(self, api):
        settings = api.train({})["record"]["settings"]
        assert (settings["outfits"], settings["candidates"], settings["gate_outfits"]) == (200, 7, 60)
        assert settings["training"]["objective"] == "diffusion_nft"

    def test_in_paper_mode_follows_the_published_procedure(self, api):
        settings = api.train({"mode": "paper"})["record"]["settings"]
        assert settings["preferences"]["mode"] == "paper"
        assert (settings["training"]["objective"], settings["training"]["is_accumulated"]) == ("d3po", False)

    def test_changes_only_what_the_request_names(self, api):
        asked = {
            "mode": "paper",
            "seed": 3,
            "weights": {"quality": 1, "votes": 2},
            "training": {"passes": 2},
            "gate": {"min_win_rate_low": 0.6},
            "sampler": {"num_inference_steps": 8, "guidance": {"history": 1.5}},
        }
        settings = api.train(asked)["record"]["settings"]
        assert settings["training"]["passes"] == 2
        assert settings["training"]["clip_sides"] == "both"
        assert (settings["seed"], settings["training"]["seed"]) == (3, 3)
        assert settings["preferences"]["weights"] == {"quality": 1, "votes": 2}
        assert settings["gate"] == {
            "min_win_rate_low": 0.6,
            "min_diversity_ratio": 0.9,
            "min_outfits": 30,
            "max_fall": 0.1,
        }
        own = api.train({})["record"]["settings"]["sampler"]
        assert settings["sampler"] == {
            **own,
            "num_inference_steps": 8,
            "guidance": {**own["guidance"], "history": 1.5},
        }


class TestRequestThatCouldNeverBeFinished:
    @pytest.mark.parametrize(
        ("asked", "reason"),
        [
            ({"outfits": 241}, "241 outfits were asked for, but 'train' of 'squares' has 240"),
            ({"gate_outfits": 81}, "81 outfits were asked for, but 'valid' of 'squares' has 80"),
            ({"gate_outfits": 20}, "gate_outfits is 20, but the gate wants 30"),
            ({"weights": {"votes": 1}}, "the gate can ask nobody"),
            ({"source": "traffic"}, "0 wait"),
            ({"source": "traffic", "outfits": 5}, "5 scored sets of the serving adapter were asked for, but 0 wait"),
        ],
    )
    def test_is_refused_with_the_reason(self, api, asked, reason):
        assert reason in api.refused(asked)
        assert api.client.get("/rounds").json()["rounds"] == []

    @pytest.mark.parametrize(
        "asked",
        [
            {"outfit": 3},
            {"outfits": 0},
            {"seed": -1},
            {"seed": 2**53},
            {"mode": "fast"},
            {"weights": {"beauty": 1}},
            {"weights": {"quality": 0}},
            {"weights": {"quality": 1}, "preferences": {"weights": {"quality": 1}}},
            {"training": {"objective": "diffusion_dpo"}},
            {"training": {"speed": 3}},
            [],
            "round",
        ],
    )
    def test_is_malformed_if_no_data_set_could_make_it_right(self, api, asked):
        api.refused(asked, 422)


class TestIdempotency:
    def test_twenty_requests_at_once_under_one_key_open_one_round(self, api):
        together = Barrier(20)

        def ask(_: int):
            together.wait()
            return api.client.post("/train", json=SMALL, headers={"Idempotency-Key": "k-1"})

        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(ask, range(20)))
        assert {answer.status_code for answer in answers} == {202}
        assert {answer.json()["round_id"] for answer in answers} == {"round-0001"}
        assert len(api.client.get("/rounds").json()["rounds"]) == 1
        assert len(api.queue.slices) == 1

    def test_another_request_under_the_same_key_is_refused(self, api):
        api.train(SMALL, **{"Idempotency-Key": "k"})
        response = api.client.post("/train", json={**SMALL, "seed": 9}, headers={"Idempotency-Key": "k"})
        assert response.status_code == 409

    def test_a_round_whose_answer_was_never_kept_is_found_again(self, api):
        first = api.train(SMALL, **{"Idempotency-Key": "k"})
        api.stores.idempotency._kept.clear()  # as if the service had died before it could keep its answer
        assert api.train(SMALL, **{"Idempotency-Key": "k"})["round_id"] == first["round_id"]

    def test_requests_without_a_key_are_rounds_of_their_own(self, api):
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda _: api.train(SMALL)["round_id"], range(8)))
        assert len(set(found)) == 8


class TestReading:
    def test_pages_go_from_the_newest_to_the_oldest(self, api):
        for _ in range(5):
            api.train(SMALL)
        first = api.client.get("/rounds", params={"limit": 3}).json()
        second = api.client.get("/rounds", params={"limit": 3, "cursor": first["next_cursor"]}).json()
        names = [view["round_id"] for page in (first, second) for view in page["rounds"]]
        assert names == [f"round-000{number}" for number in (5, 4, 3, 2, 1)]
        assert second["next_cursor"] is None

    @pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 201}, {"limit": "many"}])
    def test_a_page_has_a_size(self, api, query):
        assert api.client.get("/rounds", params=query).status_code == 422

    def test_a_cursor_that_no_page_gave_is_refused(self, api):
        assert api.client.get("/rounds", params={"cursor": "../etc"}).status_code == 400

    @pytest.mark.parametrize("path", ["/rounds/round-0009", "/rounds/round-0009/events"])
    def test_an_unknown_round_is_not_found(self, api, path):
        assert api.client.get(path).status_code == 404

    @pytest.mark.parametrize("name", ["..", "a%2Fb", "-x", "x" * 200])
    def test_a_name_that_is_none_reaches_no_store(self, api, name):
        assert api.client.get(f"/rounds/{name}").status_code in (404, 422)

    def test_metrics_of_the_training_are_shown_with_the_round_and_not_on_pages(self, api):
        round_id = api.train(SMALL)["round_id"]
        api.change(round_id, metrics=({"step": 1, "implicit_accuracy": 0.75},))
        assert api.round(round_id)["metrics"] == [{"step": 1, "implicit_accuracy": 0.75}]
        assert api.client.get("/rounds").json()["rounds"][0]["metrics"] == []


class TestEvents:
    def test_tell_everything_from_the_beginning_to_the_end(self, api):
        round_id = api.train(SMALL)["round_id"]
        api.stores.jobs.append_event(round_id, "progress", {"stage": "collect", "done": 1, "total": 4})
        end_round(round_id, api.stores, "succeeded")
        response = api.client.get(f"/rounds/{round_id}/events")
        assert response.headers["content-type"].startswith("text/event-stream")
        found = list(events(response.text))
        assert [name for name, _ in found] == ["state", "progress", "state"]
        assert found[-1][1]["details"] == {"state": "succeeded"}

    def test_go_on_behind_the_last_one_that_was_seen(self, api):
        round_id = api.train(SMALL)["round_id"]
        seen = api.stores.jobs.events(round_id)[-1].event_id
        end_round(round_id, api.stores, "cancelled")
        response = api.client.get(f"/rounds/{round_id}/events", headers={"Last-Event-ID": seen})
        assert [details["details"] for _, details in events(response.text)] == [{"state": "cancelled"}]

    def test_end_also_for_one_who_has_seen_the_end(self, api):
        round_id = api.train(SMALL)["round_id"]
        end_round(round_id, api.stores, "cancelled")
        last = api.stores.jobs.events(round_id)[-1].event_id
        response = api.client.get(f"/rounds/{round_id}/events", headers={"Last-Event-ID": last})
        assert [details["details"] for _, details in events(response.text)] == [{"state": "cancelled"}]

    def test_behind_something_that_is_no_event_are_refused(self, api):
        round_id = api.train(SMALL)["round_id"]
        response = api.client.get(f"/rounds/{round_id}/events", headers={"Last-Event-ID": "yesterday"})
        assert response.status_code == 400


class TestCancelling:
    def test_a_waiting_round_ends_it(self, api):
        round_id = api.train(SMALL)["round_id"]
        response = api.client.delete(f"/rounds/{round_id}")
        assert (response.status_code, response.json()["state"]) == (200, "cancelled")

    def test_a_round_at_work_tells_its_worker(self, api):
        round_id = api.train(SMALL)["round_id"]
        api.stores.leases.acquire(round_id, "worker", 60)
        view = api.client.delete(f"/rounds/{round_id}").json()
        assert (view["state"], view["is_cancel_requested"]) == ("queued", True)

    def test_twice_is_as_good_as_once(self, api):
        round_id = api.train(SMALL)["round_id"]
        answers = [api.client.delete(f"/rounds/{round_id}").json() for _ in range(2)]
        assert answers[0] == answers[1]

    def test_an_unknown_round_is_not_found(self, api):
        assert api.client.delete("/rounds/round-0009").status_code == 404


class TestRoundOverTraffic:
    def test_learns_from_what_the_champion_has_made(self, api):
        api.record_traffic(5)
        view = api.train({"source": "traffic"})
        assert view["source"] == "traffic"
        assert view["record"]["settings"]["outfits"] == 5
        assert order_of(api.stores.jobs.get(view["round_id"])).made_by is not None

    def test_is_refused_while_fewer_sets_wait_than_it_asks_for(self, api):
        api.record_traffic(5)
        assert "but 5 wait" in api.refused({"source": "traffic", "outfits": 6})


class TestKeys:
    @pytest.mark.parametrize(
        ("method", "path", "body", "allowed"),
        [
            ("POST", "/train", SMALL, {TRAINER}),
            ("DELETE", "/rounds/round-0001", None, {TRAINER}),
            ("GET", "/rounds", None, {READER, PAINTER, TRAINER}),
            ("GET", "/rounds/round-0001", None, {READER, PAINTER, TRAINER}),
            (
                "POST",
                "/feedback",
                {"set_id": "s", "voter_id": "v", "votes": [{"candidate_id": "c", "value": 1}]},
                {PAINTER},
            ),
        ],
    )
    def test_each_route_lets_in_who_has_its_scope(self, opened, method, path, body, allowed):
        api = opened(api_keys=KEYS)
        for key in (READER, PAINTER, TRAINER):
            response = api.client.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"})
            assert (response.status_code != 403) == (key in allowed), response.text
        assert api.client.request(method, path, json=body).status_code == 401


class TestFigures:
    def test_show_rounds_by_state_and_stage_and_how_well_pairs_are_ordered(self, api):
        round_id = api.train(SMALL)["round_id"]
        api.change(
            round_id, state="running", started_at="2026-01-01T00:00:00+00:00", metrics=({"implicit_accuracy": 0.5},)
        )
        api.stores.feedback.put_round(
            api.stores.feedback.round(round_id).model_copy(update={"stage": "train", "seconds": {"collect": 2.5}})
        )
        text = api.client.get("/metrics").text
        for line in (
            'fashiondpo_rounds{state="running"} 1.0',
            'fashiondpo_round_stage{stage="train"} 1.0',
            'fashiondpo_round_stage_seconds{stage="collect"} 2.5',
            "fashiondpo_pair_accuracy 0.5",
            "fashiondpo_champion_version 0.0",
            "fashiondpo_trainer_stores_up 1.0",
        ):
            assert line in text

    def test_say_so_when_the_stores_do_not_answer(self, api, monkeypatch):
        def away(**_: object) -> None:
            raise Unavailable("Redis is away")

        monkeypatch.setattr(api.stores.jobs, "page", away)
        assert "fashiondpo_trainer_stores_up 0.0" in api.client.get("/metrics").text


class TestReadiness:
    def test_says_that_without_redis_nobody_works(self, api):
        response = api.client.get("/readyz")
        assert response.status_code == 503
        assert "TRAINER_REDIS_URL" in response.json()["checks"]["redis"]
        assert response.json()["checks"]["data"] == "ok"


def test_a_verdict_reaches_the_round_s_readers(api):
    round_id = api.train(SMALL)["round_id"]
    interval = Interval(mean=0.6, low=0.55, high=0.65)
    verdict = GateVerdict(
        is_promoted=True,
        reasons=("better",),
        win_rate=interval,
        combined_delta=interval,
        diversity_ratio=1.0,
        outfits=30,
    )
    record = api.stores.feedback.round(round_id).model_copy(update={"stage": "publish", "verdict": verdict})
    api.stores.feedback.put_round(record)
    assert api.round(round_id)["record"]["verdict"]["reasons"] == ["better"]
