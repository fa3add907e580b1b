"""What the embedded services are told: each variable is one that its service reads."""

from pathlib import Path

import pytest

from fashiondpo.errors import InvalidInput
from fashiondpo.quality_backend import QualityBackend
from services.embedded.plan import CELERY, SERVICES, make_plan
from services.embedded.settings import EmbeddedSettings
from services.generator.settings import GeneratorSettings
from services.judge_compat.settings import JudgeCompatSettings
from services.judge_personal.settings import JudgePersonalSettings
from services.judge_quality.settings import JudgeQualitySettings
from services.trainer.settings import TrainerSettings

OF_SERVICE = {
    "generator": GeneratorSettings,
    "judge_quality": JudgeQualitySettings,
    "judge_compat": JudgeCompatSettings,
    "judge_personal": JudgePersonalSettings,
    "trainer": TrainerSettings,
    "worker": TrainerSettings,
    "beat": TrainerSettings,
}
INHERITED = {"PATH": "/bin", "GENERATOR_ROWS_PER_FORWARD": "28"}


def settings(tmp_path, **options) -> EmbeddedSettings:
    return EmbeddedSettings(run=tmp_path / "run", base_port=0, **options)


@pytest.fixture
def plan(tmp_path):
    return make_plan(settings(tmp_path), INHERITED)


class TestPlan:
    def test_tells_every_process_only_what_it_reads(self, plan):
        commands = (*plan.services, *plan.waiting)
        assert {command.name for command in commands} == {*SERVICES, *CELERY}
        for command in commands:
            kind = OF_SERVICE[command.name]
            prefix = kind.model_config["env_prefix"]
            told = [name for name in command.environment if name.startswith(prefix)]
            assert told
            unknown = [name for name in told if name.removeprefix(prefix).lower() not in kind.model_fields]
            assert unknown == [], command.name

    def test_gives_every_process_settings_that_can_be(self, plan, monkeypatch):
        for command in (*plan.services, *plan.waiting):
            with monkeypatch.context() as environment:
                for name, value in command.environment.items():
                    environment.setenv(name, value)
                made = OF_SERVICE[command.name]()
            if command.name in plan.addresses:
                assert plan.addresses[command.name] == f"http://{made.host}:{made.port}"

    def test_names_a_profile_to_every_service_that_has_a_part_of_it(self, tmp_path):
        chosen = settings(tmp_path, bundle="sd2-polyvore", judges="sd2-polyvore", model_cache=tmp_path / "models")
        plan = make_plan(chosen, INHERITED)
        told = {
            name: value for command in (*plan.services, *plan.waiting) for name, value in command.environment.items()
        }
        named = {name for name, value in told.items() if value == "sd2-polyvore"}
        assert named == {
            "GENERATOR_BUNDLE", "TRAINER_BUNDLE", "TRAINER_CLIP", "JUDGE_QUALITY_WEIGHTS", "JUDGE_COMPAT_CLIP",
            "JUDGE_COMPAT_VBPR", "JUDGE_PERSONAL_CLIP",
        }  # fmt: skip
        caches = {value for name, value in told.items() if name.endswith("_MODEL_CACHE")}
        assert caches == {str(tmp_path / "models")}

    def test_has_the_judges_of_a_profile_ask_the_model_server_that_it_names(self, tmp_path, monkeypatch):
        plan = make_plan(settings(tmp_path, judges="sd2-polyvore"), INHERITED | {"JUDGE_QUALITY_VLM_MODEL": "ours"})
        (command,) = [command for command in plan.services if command.name == "judge_quality"]
        for name, value in command.environment.items():
            monkeypatch.setenv(name, value)
        assert JudgeQualitySettings().chosen == QualityBackend(
            backend="remote", url="http://127.0.0.1:8080", dialect="vllm", model="ours"
        )

    def test_gives_judges_the_embeddings_beside_them_and_lets_both_begin_at_once(self, tmp_path, monkeypatch):
        (tmp_path / "judges" / "embeddings").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        plan = make_plan(settings(tmp_path, judges="judges"), INHERITED)
        told = {name: value for command in plan.services for name, value in command.environment.items()}
        given = {name: value for name, value in told.items() if name.endswith("_EMBEDDINGS")}
        assert given == dict.fromkeys(
            ("JUDGE_COMPAT_EMBEDDINGS", "JUDGE_PERSONAL_EMBEDDINGS"), str(tmp_path / "judges" / "embeddings")
        )
        assert plan.waiting == ()

    def test_passes_on_what_the_environment_says(self, plan):
        generator = next(command for command in plan.services if command.name == "generator")
        assert generator.environment["GENERATOR_ROWS_PER_FORWARD"] == "28"

    def test_puts_the_password_where_other_users_cannot_read_it(self, plan):
        password = plan.redis_url.split(":")[2].split("@")[0]
        for command in (plan.valkey, *plan.services, *plan.waiting):
            assert not any(password in word for word in command.arguments)
        assert password in plan.valkey.stdin

    def test_has_the_features_computed_once_and_lets_both_judges_begin_at_once_afterwards(self, tmp_path, plan):
        assert [command.name for command in plan.waiting] == ["judge_personal"]
        (tmp_path / "run" / "features").mkdir(parents=True)
        assert make_plan(settings(tmp_path), INHERITED).waiting == ()

    def test_lets_the_network_in_only_with_keys_for_every_service(self, tmp_path):
        with pytest.raises(InvalidInput, match="TRAINER_API_KEYS"):
            make_plan(settings(tmp_path, host="0.0.0.0"), INHERITED)
        keys = {f"{name.upper()}_API_KEYS": "me:admin:0123456789abcdef" for name in SERVICES}
        assert make_plan(settings(tmp_path, host="0.0.0.0"), INHERITED | keys).addresses

    @pytest.mark.parametrize(
        "quality",
        [
            "mini",
            "local:/models/minicpm?levels=5&dtype=float32&batch=2",
            "remote:http://127.0.0.1:9?dialect=llama.cpp&model=a/b&revision=r&levels=5&concurrency=2&timeout_s=9&tries=4",
        ],
    )
    def test_gives_the_quality_judge_the_backend_that_was_chosen(self, tmp_path, monkeypatch, quality):
        own = make_plan(settings(tmp_path, quality=quality), INHERITED)
        (command,) = [command for command in own.services if command.name == "judge_quality"]
        for name, value in command.environment.items():
            monkeypatch.setenv(name, value)
        chosen = JudgeQualitySettings().chosen
        wanted = QualityBackend.parse(quality)
        assert {name: getattr(chosen, name) for name in wanted.model_fields_set} == {
            name: getattr(wanted, name) for name in wanted.model_fields_set
        }

    def test_leaves_to_the_environment_what_was_not_chosen(self, tmp_path):
        inherited = {**INHERITED, "JUDGE_QUALITY_VLM_MODEL": "ours", "JUDGE_QUALITY_VLM_API_KEY": "secret"}
        own = make_plan(settings(tmp_path, quality="remote:http://127.0.0.1:9?levels=5"), inherited)
        (command,) = [command for command in own.services if command.name == "judge_quality"]
        assert command.environment["JUDGE_QUALITY_VLM_MODEL"] == "ours"
        assert command.environment["JUDGE_QUALITY_VLM_API_KEY"] == "secret"
        assert not any("secret" in word for word in command.arguments)

    def test_refuses_a_backend_that_is_none_before_anything_is_started(self, tmp_path):
        with pytest.raises(InvalidInput, match="is no backend of the quality judge"):
            make_plan(settings(tmp_path, quality="vllm"), INHERITED)

    def test_takes_folders_of_ones_own(self, tmp_path):
        own = make_plan(settings(tmp_path, data_set="/d", bundle="/b", judges="/j"), INHERITED)
        told = {c.name: c.environment for c in (*own.services, *own.waiting)}
        assert told["generator"]["GENERATOR_DATA_SET"] == "/d"
        assert told["worker"]["TRAINER_BUNDLE"] == "/b"
        assert told["judge_compat"]["JUDGE_COMPAT_VBPR"] == str(Path("/j/vbpr"))
