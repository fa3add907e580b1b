"""Adapters while serving: register, activate, roll back; what cannot be served is refused by name."""

import hashlib
import io
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save

from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.storage.artifacts import FolderArtifacts
from tests.generator_calls import adapter_of, completion, registration


def images(client, **asked) -> list[str]:
    made = client.post("/generate", json=completion(seed=3, **asked)).json()
    return [c["image"] for s in made["candidate_sets"] for c in s["candidates"]]


def changed(weights: AdapterWeights, **more) -> bytes:
    return AdapterWeights(**(vars(weights) | more)).to_bytes()


class Evil:
    """What a pickle could do to whoever loads it."""

    def __reduce__(self):
        return eval, ("1/0",)


def archived(content: bytes) -> bytes:
    """As torch.save writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def versions(client, adapter_contents):
    """Two registered versions."""
    made = [
        client.post("/adapters", json=registration(c, f"r{i}")) for i, c in enumerate(adapter_contents[:2], start=1)
    ]
    assert [response.status_code for response in made] == [201, 201]
    return [response.json()["version"] for response in made]


@pytest.fixture(scope="module")
def weights(bundle_folder):
    return adapter_of(bundle_folder)


class TestAdapters:
    def test_that_are_registered_serve_nobody_yet(self, client, versions):
        state = client.get("/adapters").json()
        assert [m["version"] for m in state["versions"]] == versions == [1, 2]
        assert (state["active"]["version"], state["champion"]) == (0, None)

    def test_registered_again_under_the_same_name_keep_their_version(self, client, versions, adapter_contents):
        assert client.post("/adapters", json=registration(adapter_contents[0], "r1")).json()["version"] == 1

    def test_with_other_weights_under_the_same_name_are_a_conflict(self, client, versions, adapter_contents):
        assert client.post("/adapters", json=registration(adapter_contents[2], "r1")).status_code == 409

    def test_that_no_gate_has_promoted_are_activated_by_force_only(self, client, versions):
        response = client.post("/adapters/1/activate", json={})
        assert (response.status_code, response.json()["code"]) == (409, "conflict")

    def test_paint_as_soon_as_they_are_active_and_are_named_in_the_answer(self, client, versions, adapter_contents):
        base = images(client)
        state = client.post("/adapters/1/activate", json={"force": True}).json()
        digest = hashlib.sha256(adapter_contents[0]).hexdigest()
        assert state["active"] == {"version": 1, "digest": digest}
        made = client.post("/generate", json=completion(seed=3)).json()
        assert made["adapter"] == made["candidate_sets"][0]["adapter"] == {"version": 1, "digest": digest}
        assert images(client) != base

    def test_can_be_pinned_whatever_is_active(self, client, versions):
        client.post("/adapters/1/activate", json={"force": True})
        active = images(client)
        pinned = [images(client, adapter_version=version) for version in (0, 1, 2)]
        assert pinned[1] == active
        assert len({tuple(some) for some in pinned}) == 3

    def test_are_rolled_back_to_the_one_before(self, client, versions):
        for version in (1, 2):
            client.post(f"/adapters/{version}/activate", json={"force": True})
        state = client.post("/adapters/rollback").json()
        assert (state["active"]["version"], state["champion"], state["previous"]) == (1, 1, None)
        assert client.post("/adapters/rollback").status_code == 409

    def test_give_way_to_the_base_model(self, client, versions):
        client.post("/adapters/1/activate", json={"force": True})
        assert client.post("/adapters/0/activate").json()["active"]["version"] == 0

    def test_that_do_not_exist_cannot_be_activated(self, client):
        assert client.post("/adapters/99/activate", json={"force": True}).status_code == 404

    def test_may_come_from_the_artifact_store(self, client, versions, adapter_contents):
        # as a trainer would have put it there
        ref = f"{hashlib.sha256(adapter_contents[2]).hexdigest()}.safetensors"
        FolderArtifacts(client.app.state.settings.artifacts_url).put(adapter_contents[2], "safetensors")
        response = client.post("/adapters", json={"artifact": ref, "round_id": "stored"})
        assert (response.status_code, response.json()["digest"]) == (201, ref.partition(".")[0])


class TestWeights:
    def test_of_a_version_come_as_they_were_registered_named_by_their_digest(self, client, versions, adapter_contents):
        for version, content in zip(versions, adapter_contents, strict=False):
            response = client.get(f"/adapters/{version}/weights")
            assert response.content == content
            assert response.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
            assert response.headers["content-type"] == "application/octet-stream"

    def test_are_what_can_be_registered_again(self, client, versions):
        fetched = client.get("/adapters/2/weights")
        digest = fetched.headers["etag"].strip('"')
        made = client.post("/adapters", json=registration(fetched.content, "r2", digest=digest)).json()
        assert (made["version"], made["digest"]) == (2, digest)

    def test_are_not_sent_again_to_whoever_has_them(self, client, versions, adapter_contents):
        tag = f'"{hashlib.sha256(adapter_contents[0]).hexdigest()}"'
        response = client.get("/adapters/1/weights", headers={"If-None-Match": tag})
        assert (response.status_code, response.content) == (304, b"")
        assert client.get("/adapters/2/weights", headers={"If-None-Match": tag}).status_code == 200

    def test_may_not_be_kept_under_their_number_without_asking(self, client, versions):
        # a generator without Redis counts anew after a restart
        assert client.get("/adapters/1/weights").headers["cache-control"] == "private, no-cache"

    @pytest.mark.parametrize(
        ("version", "says"), [(0, "the base model and has no weights"), (99, "there is no adapter version 99")]
    )
    def test_that_are_not_there_are_not_found(self, client, version, says):
        response = client.get(f"/adapters/{version}/weights")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert response.headers["content-type"] == "application/problem+json"
        assert says in response.json()["detail"]


class TestAdapterThatCannotBeServed:
    def refused(self, client, content: bytes, says: str, **more) -> None:
        response = client.post("/adapters", json=registration(content, "bad", **more))
        assert (response.status_code, response.json()["code"]) == (400, "invalid_adapter")
        assert says in response.json()["detail"]
        assert "bad" not in [m["round_id"] for m in client.get("/adapters").json()["versions"]]

    def test_corrupt_is_refused_by_its_digest(self, client, weights):
        content = bytearray(weights.to_bytes())
        digest = hashlib.sha256(content).hexdigest()
        content[-1] ^= 1
        self.refused(client, bytes(content), "digest", digest=digest)

    def test_cut_short_is_refused(self, client, weights):
        self.refused(client, weights.to_bytes()[:-10], "safetensors")

    def test_with_a_rank_too_large_is_refused(self, client, bundle_folder):
        self.refused(client, adapter_of(bundle_folder, rank=8).to_bytes(), "rank 8")

    def test_that_lies_about_its_rank_is_refused(self, client, weights):
        self.refused(client, changed(weights, rank=2), "rank")

    def test_with_values_that_are_no_numbers_is_refused(self, client, weights):
        tensors = {k: v.clone() for k, v in weights.tensors.items()}
        next(iter(tensors.values()))[0, 0] = float("nan")
        self.refused(client, changed(weights, tensors=tensors), "non-finite")

    def test_of_another_base_model_is_refused(self, client, weights):
        self.refused(client, changed(weights, base_digest="f" * 64), "base")

    def test_for_other_targets_is_refused(self, client, weights):
        self.refused(client, changed(weights, targets=("proj_in",)), "proj_in")

    def test_with_a_tensor_missing_is_refused(self, client, weights):
        tensors = dict(list(weights.tensors.items())[2:])
        self.refused(client, changed(weights, tensors=tensors), "missing")

    def test_with_a_path_for_a_name_is_refused(self, client, weights):
        tensors = weights.tensors | {
            "../../../tmp/x.lora_A.weight": torch.zeros(4, 16),
            "../../../tmp/x.lora_B.weight": torch.zeros(16, 4),
        }
        self.refused(client, changed(weights, tensors=tensors), "../../../tmp/x")

    def test_of_another_format_is_refused(self, client, weights):
        self.refused(client, save(weights.tensors), "format")

    @pytest.mark.parametrize("wrap", [bytes, archived], ids=["bare", "as torch.save"])
    def test_pickled_is_refused_and_never_loaded(self, client, wrap):
        self.refused(client, wrap(pickle.dumps(Evil())), "not a safetensors file")

    @pytest.mark.parametrize("name", ["../../x", "a/b", "", ".hidden", "x" * 129])
    def test_registered_under_a_path_is_malformed(self, client, weights, name):
        response = client.post("/adapters", json=registration(weights.to_bytes(), name))
        assert response.status_code == 422

    @pytest.mark.parametrize("ref", ["../../etc/passwd", "/etc/passwd", f"{'0' * 64}.pkl"])
    def test_referred_to_by_a_path_is_malformed(self, client, ref):
        assert client.post("/adapters", json={"artifact": ref, "round_id": "r"}).status_code == 422

    def test_too_large_is_refused(self, opened, weights):
        small = opened(max_adapter_mb=0.001)
        response = small.post("/adapters", json=registration(weights.to_bytes(), "r"))
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
