from pathlib import Path

import pytest
from pydantic import ValidationError

from fashiondpo.errors import InvalidInput
from fashiondpo.serving.judge_settings import JudgeSettings
from fashiondpo.serving.run import check_exposure
from fashiondpo.serving.settings import ServingSettings
from services.judge_compat.settings import JudgeCompatSettings
from services.judge_quality.settings import JudgeQualitySettings


class TestServingSettings:
    def test_need_nothing_and_listen_on_loopback(self):
        assert ServingSettings().is_loopback

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
    def test_know_this_machines_own_addresses(self, host):
        assert ServingSettings(host=host).is_loopback

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "example.org", ""])
    def test_know_that_others_can_be_reached_from_elsewhere(self, host):
        assert not ServingSettings(host=host).is_loopback

    @pytest.mark.parametrize(("host", "keys"), [("127.0.0.1", ""), ("0.0.0.0", "ann:read:0123456789abcdef")])
    def test_allow_what_is_guarded_or_out_of_reach(self, host, keys):
        check_exposure(ServingSettings(host=host, api_keys=keys))

    def test_refuse_to_let_the_network_in_without_keys(self):
        with pytest.raises(InvalidInput, match="loopback only"):
            check_exposure(ServingSettings(host="0.0.0.0"))

    def test_do_not_show_keys(self):
        assert "0123456789abcdef" not in repr(ServingSettings(api_keys="ann:read:0123456789abcdef"))

    def test_need_a_key_file_that_is_there(self, tmp_path):
        with pytest.raises(ValidationError, match="cannot be read"):
            ServingSettings(api_keys_file=tmp_path / "nowhere")

    def test_take_the_log_level_in_any_case(self):
        assert ServingSettings(log_level="warning").log_level == "WARNING"

    def test_of_rates_are_refused_if_nobody_can_read_them(self):
        with pytest.raises(ValidationError, match="rate_limit"):
            ServingSettings(rate_limit="often")


class TestJudgeSettings:
    def test_find_the_mini_models_below_the_assets(self, tmp_path):
        settings = JudgeSettings(assets=tmp_path)
        assert settings.mini("mini", "judges/quality") == tmp_path / "judges/quality"
        assert settings.mini(tmp_path / "mine", "judges/quality") == tmp_path / "mine"

    def test_find_embeddings_in_a_folder_or_where_a_profile_has_them(self, tmp_path):
        made = tmp_path / "embeddings" / "polyvore"
        made.mkdir(parents=True)
        of_profile = JudgeCompatSettings(embeddings="sd2-polyvore", model_cache=tmp_path)
        assert of_profile.embeddings_folder == made
        assert JudgeCompatSettings(embeddings="/mine").embeddings_folder == Path("/mine")
        assert JudgeCompatSettings().embeddings_folder is None


class TestQualitySettings:
    def test_without_any_are_the_mini_network(self):
        assert JudgeQualitySettings().chosen.backend == "mini"

    def test_of_a_profile_ask_the_server_that_it_names(self):
        chosen = JudgeQualitySettings(weights="sd2-polyvore").chosen
        assert (chosen.backend, chosen.url, chosen.dialect) == ("remote", "http://127.0.0.1:8080", "vllm")
        assert chosen.model == "openbmb/MiniCPM-Llama3-V-2_5"

    def test_that_are_given_are_stronger_than_a_profile(self):
        given = {"vlm_url": "http://vlm:8000", "vlm_model": "ours", "vlm_dialect": "llama.cpp", "levels": 5}
        chosen = JudgeQualitySettings(weights="sd2-polyvore", **given).chosen
        assert (chosen.url, chosen.model, chosen.dialect, chosen.levels) == tuple(given.values())

    def test_of_another_backend_than_the_profiles_take_nothing_from_it(self):
        settings = JudgeQualitySettings(weights="sd2-polyvore", backend="local")
        with pytest.raises(InvalidInput, match="a server of yours runs: it is no folder"):
            _ = settings.chosen

    def test_of_a_server_need_its_address(self):
        with pytest.raises(ValidationError, match="JUDGE_QUALITY_VLM_URL is required"):
            JudgeQualitySettings(backend="remote")


class TestSettingsFromTheEnvironment:
    def test_have_the_services_prefix(self, monkeypatch):
        monkeypatch.setenv("JUDGE_COMPAT_PORT", "0")
        monkeypatch.setenv("JUDGE_COMPAT_MAX_BATCH", "9")
        settings = JudgeCompatSettings()
        assert (settings.port, settings.max_batch) == (0, 9)

    def test_that_are_empty_count_as_unset(self, monkeypatch):
        for name in (
            "FEATURES_CACHE",
            "EMBEDDINGS",
            "ARTIFACTS_URL",
            "RATE_LIMIT",
            "OTEL_ENDPOINT",
            "API_KEYS",
            "API_KEYS_FILE",
            "THREADS",
        ):
            monkeypatch.setenv(f"JUDGE_COMPAT_{name}", "")
        settings = JudgeCompatSettings()
        assert (settings.features_cache, settings.artifacts_url, settings.rate_limit, settings.threads) == (None,) * 4
        assert settings.embeddings is None

    def test_cannot_be_changed(self):
        with pytest.raises(ValidationError):
            JudgeCompatSettings().port = 1  # type: ignore[misc]
