from pathlib import Path

import pytest

from fashiondpo.errors import InvalidInput, NotFound
from fashiondpo.judges.minicpm import MiniCPMQualityJudge
from fashiondpo.judges.quality import MiniQualityJudge
from fashiondpo.judges.remote_quality import RemoteQualityJudge
from fashiondpo.model_cache.places import ModelPlaces
from fashiondpo.quality_backend import QualityBackend
from fashiondpo.run_settings import MINI_ASSETS
from tests.tiny_vlm import save_tiny_vlm
from tests.unit.profiles.test_profile import OWN, own_profile

MINI = MINI_ASSETS / "judges" / "quality"


class TestText:
    def test_names_backend_place_and_settings(self):
        parsed = QualityBackend.parse(
            "remote:http://127.0.0.1:8000/v1?dialect=llama.cpp&model=a/b&levels=5&timeout_s=2.5"
        )
        assert parsed == QualityBackend(
            backend="remote", url="http://127.0.0.1:8000/v1", dialect="llama.cpp", model="a/b", levels=5, timeout_s=2.5
        )

    def test_of_a_local_model_is_its_folder(self):
        parsed = QualityBackend.parse("local:models/minicpm?batch=4&dtype=bfloat16")
        assert (parsed.folder, parsed.batch, parsed.dtype) == (Path("models/minicpm"), 4, "bfloat16")

    @pytest.mark.parametrize(
        "text",
        ["mini", "local:/models/my model?levels=5", "remote:http://h:1?dialect=none&model=a%2Fb&revision=r&tries=2"],
    )
    def test_means_the_same_when_it_is_written_and_read_again(self, text):
        parsed = QualityBackend.parse(text)
        assert QualityBackend.parse(parsed.text()) == parsed

    def test_of_a_folder_means_the_same_from_anywhere(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        assert QualityBackend.parse("local:model").text() == f"local:{tmp_path}/model"

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "give mini, local:FOLDER or remote:URL"),
            ("local", "give mini, local:FOLDER or remote:URL"),
            ("mini:folder", "give mini, local:FOLDER or remote:URL"),
            ("mini?levels=5", "give mini, local:FOLDER or remote:URL"),
            ("vllm:http://h", "give mini, local:FOLDER or remote:URL"),
            ("remote:http://h?levels=7", "levels"),
            ("remote:http://h?dialect=tgi", "dialect"),
            ("remote:http://h?colour=red", "colour"),
            ("remote:http://h?tries", "tries"),
            ("remote:http://h?url=http://other", "url cannot be given twice"),
        ],
    )
    def test_that_is_none_is_refused_with_the_reason(self, text, problem):
        with pytest.raises(InvalidInput, match="is no backend of the quality judge") as caught:
            QualityBackend.parse(text)
        assert problem in str(caught.value)


class TestQualityBackend:
    def test_makes_the_mini_judge_unless_told_otherwise(self):
        choice = QualityBackend()
        assert choice.server() is None
        assert isinstance(choice.judge(mini=MINI), MiniQualityJudge)

    def test_makes_a_local_judge_of_the_levels_it_is_told(self, tmp_path):
        choice = QualityBackend.parse(f"local:{save_tiny_vlm(tmp_path / 'tiny')}?levels=5")
        judge = choice.judge(mini=MINI)
        assert isinstance(judge, MiniCPMQualityJudge)
        assert judge.info.high == 5

    def test_makes_a_judge_that_asks_a_server(self):
        choice = QualityBackend.parse("remote:http://127.0.0.1:9?model=m&revision=r&dialect=ollama")
        with choice.server("key") as server:
            judge = choice.judge(mini=MINI, server=server)
        assert isinstance(judge, RemoteQualityJudge)
        assert judge.info.version.startswith("m@r+ollama+rubric-10-")

    def test_refuses_an_address_that_is_none(self):
        with pytest.raises(InvalidInput, match="is no address"):
            QualityBackend.parse("remote:ftp://host").server()

    @pytest.mark.parametrize("fields", [{"backend": "local"}, {"backend": "remote"}, {"backend": "remote", "url": ""}])
    def test_without_its_place_is_refused(self, fields):
        with pytest.raises(ValueError, match="backend needs"):
            QualityBackend(**fields)


class TestOfJudges:
    @pytest.fixture
    def models(self, tmp_path):
        return ModelPlaces(tmp_path, MINI_ASSETS)

    @pytest.mark.parametrize("judges", ["mini", "/models/judges"])
    def test_is_the_network_of_the_mini_family_and_of_a_folder(self, models, judges):
        assert QualityBackend.of_judges(judges, models) == QualityBackend(backend="mini")

    @pytest.mark.parametrize("judges", ["sd2-polyvore", "sd2-ifashion"])
    def test_of_the_published_size_is_the_server_that_the_profile_names(self, models, judges):
        chosen = QualityBackend.of_judges(judges, models)
        assert chosen.text() == ("remote:http://127.0.0.1:8080?dialect=vllm&model=openbmb%2FMiniCPM-Llama3-V-2_5")

    def test_that_compute_here_have_to_be_fetched(self, models, tmp_path):
        local = 'backend = "local"\nmodel = "m"\n[judges.quality.source]\nrepo = "house/vlm"'
        own_profile(tmp_path, OWN.replace('backend = "mini"', local))
        with pytest.raises(NotFound, match="fashiondpo models fetch house"):
            QualityBackend.of_judges("house", models)

    def test_whose_profile_says_what_cannot_be_are_refused_by_its_name(self, models, tmp_path):
        remote = 'backend = "remote"\nmodel = "m"\nurl = "http://h"\ndialect = "tgi"'
        own_profile(tmp_path, OWN.replace('backend = "mini"', remote))
        with pytest.raises(InvalidInput, match=r"profile house .*dialect"):
            QualityBackend.of_judges("house", models)
