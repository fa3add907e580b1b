"""A Redis whose memory is full: rounds are refused for now, shown all the while, and accepted again afterwards."""

from fastapi.testclient import TestClient

from fashiondpo.storage.redis_connection import connect
from services.trainer.app import create_app
from services.trainer.settings import TrainerSettings
from tests.polling import eventually
from tests.unit.trainer.errands import squares_basis

SMALL = {"outfits": 4, "gate_outfits": 30, "candidates": 3}


class TestFullRedis:
    def test_makes_new_rounds_503_and_keeps_showing_those_there_are(self, own_valkey, tmp_path):
        settings = TrainerSettings(redis_url=own_valkey.url, artifacts_url=str(tmp_path / "artifacts"))
        with TestClient(create_app(settings, load=lambda _: squares_basis())) as client:
            eventually(lambda: client.get("/readyz").status_code == 200)
            accepted = client.post("/train", json=SMALL)
            server = connect(own_valkey.url)
            server.config_set("maxmemory", 1)
            refused = client.post("/train", json=SMALL)
            shown = client.get("/rounds").json()["rounds"]
            server.config_set("maxmemory", 0)
            again = client.post("/train", json=SMALL)
            rounds = client.get("/rounds").json()["rounds"]
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert [view["round_id"] for view in shown] == [accepted.json()["round_id"]]
        assert [view["round_id"] for view in rounds] == [again.json()["round_id"], accepted.json()["round_id"]]
