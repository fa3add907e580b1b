"""What decides a training run."""

import pytest
from pydantic import ValidationError

from fashiondpo.training.config import TrainSettings, paper_settings, step_settings


class TestTrainSettings:
    def test_survives_a_round_trip_through_json(self):
        settings = TrainSettings(objective="diffusion_dpo", beta=500, steps_per_outfit=None)
        assert TrainSettings.model_validate_json(settings.model_dump_json()) == settings

    @pytest.mark.parametrize(
        "changes",
        [{"beta": 0}, {"clip_range": 1}, {"rank": 0}, {"passes": 0}, {"learning_rate": 0}, {"visits_per_forward": 0}],
    )
    def test_refuses_what_cannot_train(self, changes):
        with pytest.raises(ValidationError, match=next(iter(changes))):
            TrainSettings(**changes)

    def test_refuses_the_beta_of_one_objective_for_the_other(self):
        with pytest.raises(ValidationError, match=r"beta is in the hundreds, got 1\.0"):
            TrainSettings(objective="diffusion_dpo")

    def test_refuses_settings_it_does_not_know(self):
        with pytest.raises(ValidationError, match="extra"):
            TrainSettings(eta=0.1)


class TestStepSettings:
    def test_learn_from_recorded_steps_and_add_up_their_gradients(self):
        settings = step_settings()
        assert TrainSettings.model_validate(settings.model_dump()) == settings
        assert (settings.objective, settings.is_accumulated, settings.clip_sides) == ("d3po", True, "one")


class TestPaperSettings:
    def test_are_valid_and_those_that_were_published(self):
        settings = paper_settings()
        assert TrainSettings.model_validate(settings.model_dump()) == settings
        assert (settings.objective, settings.passes, settings.rate_decay) == ("d3po", 1, "none")
        assert (settings.beta, settings.clip_range, settings.clip_sides, settings.rank) == (0.1, 0.1, "both", 4)

    def test_update_once_per_outfit_and_recorded_step(self):
        settings = paper_settings()
        assert (settings.outfits_per_update, settings.steps_per_outfit, settings.is_accumulated) == (1, None, False)
