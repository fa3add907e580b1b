"""POST /generate: pictures, and what reproduces them."""

import base64
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fashiondpo.contracts import content_digest
from fashiondpo.messages import Generation
from fashiondpo.outfits.images import decode_image, encode_png
from tests.generator_calls import ASYNC, CHIEF, KEYS, LONG, OTHER_PAINTER, PAINTER, READER, TRAINER, bearer, completion
from tests.polling import eventually


def images(generation: dict) -> list[str]:
    return [c["image"] for s in generation["candidate_sets"] for c in s["candidates"]]


def picture(shade: int = 90) -> str:
    image = np.full((48, 30, 3), 255, np.uint8)
    image[10:40, 5:25] = (shade, 20, 160)
    return base64.b64encode(encode_png(image)).decode()


@pytest.fixture(scope="module")
def guarded(opened):
    return opened(api_keys=KEYS)


class TestCompletedOutfit:
    def test_has_a_picture_per_candidate_that_can_be_fetched(self, client):
        response = client.post("/generate", json=completion(num_candidates=3))
        assert response.status_code == 200
        refs = images(response.json())
        assert len(set(refs)) == 3
        content = client.get(f"/images/{refs[0]}").content
        assert f"{content_digest(content)}.png" == refs[0]
        assert decode_image(content).shape == (32, 32, 3)

    def test_says_everything_that_reproduces_it(self, client):
        body = completion(steps=3, seed=7, set_id="mine", outfit_id=12)
        made = Generation.model_validate(client.post("/generate", json=body).json())
        (one,) = made.candidate_sets
        assert (made.status, made.done, made.total, made.problem) == ("succeeded", 3, 3, None)
        assert (made.scheduler, made.rows_per_forward, made.adapter.version) == ("ddim", 21, 0)
        assert (one.set_id, one.sampler.num_inference_steps, one.base_digest) == ("mine", 3, made.base_digest)
        again = completion(steps=3, outfit_id=12, seeds=[[c.seed for c in one.candidates]])
        assert images(client.post("/generate", json=again).json()) == [c.image for c in one.candidates]

    def test_differs_with_the_seed(self, client):
        one, other = (client.post("/generate", json=completion(seed=seed)).json() for seed in (1, 2))
        assert not set(images(one)) & set(images(other))

    def test_of_several_empty_slots_has_a_set_per_slot_painted_together(self, client):
        slots = [{"category_id": 1}, {"item_id": 6}, {"category_id": 8}]
        made = client.post("/generate", json=completion(slots=slots, set_id="whole")).json()
        assert [(s["set_id"], s["slot"]) for s in made["candidate_sets"]] == [("whole-0", 0), ("whole-2", 2)]

    def test_many_outfits_come_in_the_order_of_the_request(self, client):
        one = completion()["outfits"][0]
        body = completion() | {"outfits": [one | {"set_id": f"o{i}"} for i in range(5)]}
        made = client.post("/generate", json=body).json()
        assert [s["set_id"] for s in made["candidate_sets"]] == [f"o{i}" for i in range(5)]

    def test_is_the_same_whatever_else_is_painted(self, client):
        body = completion(num_candidates=3, seed=11)
        alone = images(client.post("/generate", json=body).json())
        others = [completion(num_candidates=1 + i % 4, steps=2 + i, seed=i) for i in range(8)]
        with ThreadPoolExecutor(9) as pool:
            rest = [pool.submit(client.post, "/generate", json=other) for other in others]
            crowded = pool.submit(client.post, "/generate", json=body).result()
            assert all(future.result().status_code == 200 for future in rest)
        assert images(crowded.json()) == alone

    def test_keeps_no_trajectory_unless_it_is_recorded(self, client):
        (plain,) = client.post("/generate", json=completion()).json()["candidate_sets"]
        (recorded,) = client.post("/generate", json=completion(record=True)).json()["candidate_sets"]
        assert plain["trajectory"] is None
        assert recorded["trajectory"].endswith(".safetensors")

    def test_can_be_asked_for_again_by_its_name(self, client):
        made = client.post("/generate", json=completion()).json()
        eventually(lambda: client.get(f"/generations/{made['generation_id']}").json() == made)

    def test_of_which_nobody_knows_is_not_found(self, client):
        response = client.get("/generations/nobodys")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


class TestGivenPictures:
    def test_are_garments_like_items(self, client):
        def made(shade: int) -> dict:
            slots = [{"category_id": 1, "image": picture(shade)}, {"item_id": 6}, {"category_id": 8}]
            return client.post("/generate", json=completion(slots=slots)).json()

        one, other = made(30), made(220)
        (ref,) = one["candidate_sets"][0]["outfit"]["item_images"].values()
        assert client.get(f"/images/{ref}").status_code == 200
        assert images(one) != images(other)

    def test_can_be_named_by_reference_the_next_time(self, client):
        sent = [{"category_id": 1, "image": picture()}, {"item_id": 6}, {"category_id": 8}]
        first = client.post("/generate", json=completion(slots=sent)).json()
        (ref,) = first["candidate_sets"][0]["outfit"]["item_images"].values()
        named = [{"category_id": 1, "artifact": ref}, {"item_id": 6}, {"category_id": 8}]
        assert images(client.post("/generate", json=completion(slots=named)).json()) == images(first)

    def test_make_a_history_too(self, client):
        def made(worn: list[dict]) -> list[str]:
            return images(client.post("/generate", json=completion(history={"8": worn})).json())

        pictured, empty = made([{"image": picture()}, {"item_id": 7}]), made([])
        assert pictured != empty


class TestRefusal:
    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"outfits": []}, 422, "malformed"),
            (completion(slots=[{"item_id": 6}, {"item_id": 40}]), 422, "malformed"),
            (completion(steps=0), 422, "malformed"),
            (completion(seed=-1), 422, "malformed"),
            (completion(set_id="../../etc/passwd"), 422, "malformed"),
            (completion(slots=[{"item_id": 6}, {"category_id": 8}, {"category_id": 1, "artifact": "../x.png"}]), 422,
             "malformed"),
            (completion(slots=[{"item_id": 10**9}, {"category_id": 8}]), 404, "unknown_item"),
            (completion(slots=[{"item_id": 6}, {"category_id": 77}]), 400, "invalid_input"),
            (completion(slots=[{"category_id": 1, "image": "bm8gcGljdHVyZQ=="}, {"category_id": 8}]), 400,
             "invalid_input"),
            (completion(adapter_version=99), 404, "not_found"),
            (completion(num_candidates=32) | {"outfits": completion()["outfits"] * 17}, 413, "too_large"),
            (completion(steps=LONG, deadline_s=0.05), 503, "deadline_exceeded"),
        ],
    )  # fmt: skip
    def test_says_what_is_wrong(self, client, body, status, code):
        response = client.post("/generate", json=body)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["request_id"] == response.headers["x-request-id"]

    def test_of_what_does_not_fit_into_the_queue_says_when_to_come_back(self, opened):
        client = opened(max_queued_rows=4)
        accepted = [client.post("/generate", json=completion(steps=LONG), headers=ASYNC) for _ in range(8)]
        refused = [response for response in accepted if response.status_code != 202]
        assert refused
        assert all(r.status_code == 429 and int(r.headers["retry-after"]) >= 1 for r in refused)
        for response in accepted:
            if response.status_code == 202:
                client.delete(response.headers["location"])


class TestAsynchronousGeneration:
    def test_is_accepted_at_once_and_found_under_its_location(self, client):
        response = client.post("/generate", json=completion(), headers=ASYNC)
        assert response.status_code == 202
        assert response.headers["preference-applied"] == "respond-async"
        place = response.headers["location"]
        eventually(lambda: client.get(place).json()["status"] == "succeeded")
        assert len(images(client.get(place).json())) == 2

    def test_that_fails_keeps_its_reason(self, client):
        place = client.post("/generate", json=completion(steps=LONG, deadline_s=0.05), headers=ASYNC).headers[
            "location"
        ]
        eventually(lambda: client.get(place).json()["status"] == "failed")
        assert client.get(place).json()["problem"]["code"] == "deadline_exceeded"

    def test_is_cancelled_by_delete_and_stays_so(self, client):
        place = client.post("/generate", json=completion(steps=LONG), headers=ASYNC).headers["location"]
        answers = [client.delete(place).json() for _ in range(3)]
        assert [answer["status"] for answer in answers] == ["cancelled"] * 3
        assert answers[0]["problem"]["code"] == "cancelled"
        assert answers[0]["done"] < LONG

    def test_that_has_ended_is_not_changed_by_delete(self, client):
        made = client.post("/generate", json=completion()).json()
        assert client.delete(f"/generations/{made['generation_id']}").json() == made

    def test_that_nobody_knows_cannot_be_cancelled(self, client):
        assert client.delete("/generations/nobodys").status_code == 404


class TestIdempotencyKey:
    def test_sent_twenty_times_at_once_gives_one_generation_and_one_answer(self, client):
        headers, body = {"Idempotency-Key": "twenty"}, completion(seed=20)
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: client.post("/generate", json=body, headers=headers), range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1

    def test_sent_again_later_gives_the_same_answer(self, client):
        headers = {"Idempotency-Key": "again"}
        first, second = (client.post("/generate", json=completion(), headers=headers) for _ in range(2))
        assert first.json() == second.json()

    def test_sent_again_asynchronously_names_the_same_place(self, client):
        headers = ASYNC | {"Idempotency-Key": "twice"}
        first, second = (client.post("/generate", json=completion(), headers=headers) for _ in range(2))
        assert first.headers["location"] == second.headers["location"]
        assert second.status_code == 202

    def test_with_another_request_is_a_conflict(self, client):
        headers = {"Idempotency-Key": "other"}
        client.post("/generate", json=completion(seed=1), headers=headers)
        response = client.post("/generate", json=completion(seed=2), headers=headers)
        assert (response.status_code, response.json()["code"]) == (409, "conflict")

    def test_of_a_request_that_failed_may_be_tried_again(self, client):
        headers, body = {"Idempotency-Key": "late"}, completion(steps=LONG, deadline_s=0.05)
        first, second = (client.post("/generate", json=body, headers=headers) for _ in range(2))
        assert [first.status_code, second.status_code] == [503, 503]

    def test_of_a_request_that_was_refused_may_be_tried_again(self, client):
        headers = {"Idempotency-Key": "refused"}
        body = completion(adapter_version=99)
        assert [client.post("/generate", json=body, headers=headers).status_code for _ in range(2)] == [404, 404]


class TestScopes:
    def test_reading_takes_any_key(self, guarded):
        assert guarded.get("/adapters").status_code == 401
        assert guarded.get("/adapters", headers=bearer(READER)).status_code == 200

    @pytest.mark.parametrize(("key", "status"), [(READER, 403), (PAINTER, 200), (TRAINER, 200)])
    def test_painting_takes_the_scope_generate(self, guarded, key, status):
        assert guarded.post("/generate", json=completion(), headers=bearer(key)).status_code == status

    @pytest.mark.parametrize("asked", [{"adapter_version": 0}, {"round_id": "round-0001"}])
    def test_pinning_a_version_or_a_round_takes_the_scope_train(self, guarded, asked):
        body = completion(**asked)
        assert guarded.post("/generate", json=body, headers=bearer(PAINTER)).status_code == 403
        assert guarded.post("/generate", json=body, headers=bearer(TRAINER)).status_code == 200

    @pytest.mark.parametrize(("key", "status"), [(READER, 403), (PAINTER, 403), (TRAINER, 404), (CHIEF, 404)])
    def test_fetching_weights_takes_the_scope_train(self, guarded, key, status):
        assert guarded.get("/adapters/1/weights", headers=bearer(key)).status_code == status

    def test_only_who_asked_for_a_generation_may_stop_it(self, guarded):
        headers = bearer(PAINTER) | ASYNC
        place = guarded.post("/generate", json=completion(steps=LONG), headers=headers).headers["location"]
        assert guarded.delete(place, headers=bearer(OTHER_PAINTER)).status_code == 403
        assert guarded.delete(place, headers=bearer(PAINTER)).json()["status"] == "cancelled"

    def test_keys_of_different_callers_never_meet(self, guarded):
        answers = [
            guarded.post("/generate", json=completion(), headers=bearer(key) | {"Idempotency-Key": "k"}).json()
            for key in (PAINTER, OTHER_PAINTER)
        ]
        assert answers[0]["generation_id"] != answers[1]["generation_id"]

    @pytest.mark.parametrize("key", [READER, PAINTER, TRAINER])
    @pytest.mark.parametrize("path", ["/adapters", "/adapters/1/activate", "/adapters/rollback"])
    def test_changing_adapters_takes_the_scope_admin(self, guarded, path, key):
        assert guarded.post(path, json={}, headers=bearer(key)).status_code == 403
