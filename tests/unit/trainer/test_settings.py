"""Settings of the trainer, and how they set up Celery."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from fashiondpo.errors import InvalidInput
from services.trainer.queue import ADVANCE, RECONCILE, START_IF_DUE
from services.trainer.settings import TrainerSettings
from services.trainer.worker import celery_app

REDIS = "redis://:secret@127.0.0.1:1/0"


class TestSettings:
    def test_come_from_the_environment(self, monkeypatch):
        monkeypatch.setenv("TRAINER_SLICE_S", "20")
        monkeypatch.setenv("TRAINER_JUDGE_URLS", '["http://a:1", "http://b:2"]')
        monkeypatch.setenv("TRAINER_REDIS_URL", "")
        settings = TrainerSettings()
        assert (settings.slice_s, settings.judge_urls, settings.redis_url) == (20, ("http://a:1", "http://b:2"), None)

    def test_refuse_a_broker_that_would_repeat_a_slice_under_way(self):
        with pytest.raises(ValidationError, match="300 s longer"):
            TrainerSettings(slice_s=600, visibility_timeout_s=700)

    def test_refuse_a_continuous_mode_that_does_not_learn_from_traffic(self):
        with pytest.raises(ValidationError, match="'traffic'"):
            TrainerSettings(continuous_sets=10, continuous_request={"source": "split"})

    def test_never_show_the_password_of_redis(self):
        assert "secret" not in repr(TrainerSettings(redis_url=REDIS))


class TestCelery:
    def test_needs_a_broker(self):
        with pytest.raises(InvalidInput, match="TRAINER_REDIS_URL"):
            celery_app(TrainerSettings())

    def test_is_set_up_so_that_no_task_is_lost_or_done_by_two(self):
        conf = celery_app(TrainerSettings(redis_url=REDIS)).conf
        assert conf.task_acks_late and conf.task_reject_on_worker_lost
        assert conf.worker_prefetch_multiplier == 1 and conf.worker_concurrency == 1
        assert conf.worker_cancel_long_running_tasks_on_connection_loss is False
        assert conf.broker_transport_options["visibility_timeout"] > conf.task_time_limit

    def test_spawns_its_child_and_speaks_json_only(self):
        conf = celery_app(TrainerSettings(redis_url=REDIS)).conf
        assert conf.worker_pool_start_method == "spawn"
        assert (conf.accept_content, conf.task_serializer) == (["json"], "json")

    def test_looks_for_traffic_to_learn_from_only_if_it_is_told_to(self):
        names = set(celery_app(TrainerSettings(redis_url=REDIS)).conf.beat_schedule)
        assert RECONCILE in names and START_IF_DUE not in names
        assert START_IF_DUE in celery_app(TrainerSettings(redis_url=REDIS, continuous_sets=5)).conf.beat_schedule

    def test_forgets_reminders_that_nobody_took_before_the_next(self):
        for entry in celery_app(TrainerSettings(redis_url=REDIS)).conf.beat_schedule.values():
            assert entry["options"]["expires"] == entry["schedule"]

    def test_runs_every_task_that_is_sent(self):
        app = celery_app(TrainerSettings(redis_url=REDIS, continuous_sets=5))
        app.loader.import_default_modules()
        assert {ADVANCE, *(entry["task"] for entry in app.conf.beat_schedule.values())} <= set(app.tasks)


class TestKeyOfPeers:
    def test_may_come_from_a_mounted_file(self, tmp_path):
        (tmp_path / "key").write_text("0123456789abcdef\n")
        assert TrainerSettings(service_key_file=tmp_path / "key").peer_key() == "0123456789abcdef"

    def test_that_cannot_be_read_is_an_error_that_names_the_file(self, tmp_path):
        with pytest.raises(InvalidInput, match="nothing-there"):
            TrainerSettings(service_key_file=tmp_path / "nothing-there").peer_key()

    def test_is_none_unless_it_is_set(self):
        assert TrainerSettings().peer_key() is None
