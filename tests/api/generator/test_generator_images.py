"""GET /images/{ref}: pictures, and nothing else, for ever."""

import pytest

from fashiondpo.storage.artifacts import FolderArtifacts
from tests.generator_calls import completion


@pytest.fixture(scope="module")
def ref(client):
    made = client.post("/generate", json=completion(num_candidates=1, record=True)).json()
    return made["candidate_sets"][0]["candidates"][0]["image"]


class TestImage:
    def test_is_a_png_that_may_be_kept_for_ever(self, client, ref):
        response = client.get(f"/images/{ref}")
        assert response.headers["content-type"] == "image/png"
        assert response.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.content.startswith(b"\x89PNG")

    @pytest.mark.parametrize("tag", ['"{}"', 'W/"{}"', '"other", "{}"', "*"])
    def test_is_not_sent_again_to_whoever_has_it(self, client, ref, tag):
        response = client.get(f"/images/{ref}", headers={"If-None-Match": tag.format(ref.partition(".")[0])})
        assert (response.status_code, response.content) == (304, b"")

    def test_is_sent_to_whoever_has_another(self, client, ref):
        assert client.get(f"/images/{ref}", headers={"If-None-Match": '"other"'}).status_code == 200

    def test_that_nobody_stored_is_not_found_and_the_store_stays_unnamed(self, client):
        response = client.get(f"/images/{'0' * 64}.png")
        assert response.status_code == 404
        assert client.app.state.settings.artifacts_url not in response.text

    @pytest.mark.parametrize("suffix", ["safetensors", "json", "html"])
    def test_is_never_another_artifact(self, client, suffix):
        stored = FolderArtifacts(client.app.state.settings.artifacts_url).put(b"not for everybody", suffix)
        assert client.get(f"/images/{stored}").status_code == 404

    @pytest.mark.parametrize("path", ["..%2f..%2fetc%2fpasswd", "x.png", f"{'g' * 64}.png", f"{'0' * 64}.png%00"])
    def test_has_no_path(self, client, path):
        assert client.get(f"/images/{path}").status_code in (404, 422)
