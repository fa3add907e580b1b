"""Which outfits and steps an update looks at, at which rate, and what is written of it."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiondpo.diffusion.ddim import NoiseSchedule
from fashiondpo.training.config import TrainSettings, paper_settings
from fashiondpo.training.metrics import read_metrics
from fashiondpo.training.plan import plan_updates, random_steps
from fashiondpo.training.trainer import PreferenceTrainer
from tests.tiny_rounds import changed, preference_sets, recorded, same_weights


class TestRateDecay:
    def test_falls_in_a_line_from_the_rate_to_nothing(self, bundle, trajectories, tmp_path):
        settings = changed(rate_decay="linear")
        trainer = PreferenceTrainer(bundle, preference_sets(trajectories), settings, tmp_path)
        used = []
        trainer.run(progress=lambda *_: used.append(trainer.optimizer.param_groups[0]["lr"]))
        assert used == pytest.approx([1e-2 * part for part in (1, 0.75, 0.5, 0.25)])

    def test_goes_on_where_it_was_after_a_stop(self, bundle, trajectories, tmp_path):
        settings = changed(rate_decay="linear")
        found = []
        for name, steps in (("at once", [4]), ("stopped", [1, 3])):
            for count in steps:
                trainer = PreferenceTrainer(bundle, preference_sets(trajectories), settings, tmp_path / name)
                weights = trainer.run(max_updates=count)
                trainer.close()
            found.append(weights)
        assert same_weights(*found)


class TestRandomSteps:
    def test_are_all_steps_of_the_published_schedule(self, bundle, trajectories):
        assert random_steps(trajectories[0], bundle) == 4

    def test_leave_out_a_last_step_without_noise(self, bundle, tmp_path):
        scheduler = type(bundle.schedule.scheduler).from_config(bundle.schedule.scheduler.config, set_alpha_to_one=True)
        certain = replace(bundle, schedule=NoiseSchedule(scheduler))
        trajectories = recorded(certain, 2)
        assert random_steps(trajectories[0], certain) == 3
        settings = changed(steps_per_outfit=None)
        trainer = PreferenceTrainer(certain, preference_sets(trajectories), settings, tmp_path)
        assert {step for update in trainer.plan for _, step in update.visits} == {0, 1, 2}
        assert trainer.run() is not None


PLANS = st.builds(
    lambda **chosen: TrainSettings(**chosen),
    passes=st.integers(1, 3),
    outfits_per_update=st.integers(1, 5),
    steps_per_outfit=st.none() | st.integers(1, 8),
    is_accumulated=st.booleans(),
    seed=st.integers(0, 5),
)


class TestPlanUpdates:
    @given(st.integers(1, 9), st.integers(1, 6), PLANS)
    def test_uses_every_set_once_per_pass_with_as_many_different_steps_as_asked_for(self, sets, steps, settings):
        wanted = min(steps, settings.steps_per_outfit or steps)
        updates = plan_updates(sets, steps, settings)
        assert len(updates) % settings.passes == 0
        per_pass = len(updates) // settings.passes
        for start in range(0, len(updates), per_pass):
            visits = [visit for update in updates[start : start + per_pass] for visit in update.visits]
            assert len(visits) == len(set(visits)), "no recorded step twice in a pass"
            assert Counter(position for position, _ in visits) == dict.fromkeys(range(sets), wanted)
            assert {step for _, step in visits} <= set(range(steps))

    @given(st.integers(1, 9), st.integers(1, 6), PLANS)
    def test_follows_from_the_seed_alone(self, sets, steps, settings):
        assert plan_updates(sets, steps, settings) == plan_updates(sets, steps, settings)

    @given(st.integers(1, 9), st.integers(1, 6), PLANS)
    def test_an_accumulated_update_is_those_of_its_steps_together(self, sets, steps, settings):
        by_batch = plan_updates(sets, steps, changed(settings, is_accumulated=True))
        by_step = plan_updates(sets, steps, changed(settings, is_accumulated=False))
        assert [v for update in by_batch for v in update.visits] == [v for update in by_step for v in update.visits]
        wanted = min(steps, settings.steps_per_outfit or steps)
        assert len(by_step) == wanted * len(by_batch)
        assert all(len({position for position, _ in update.visits}) == len(update.visits) for update in by_step)

    def test_passes_and_seeds_differ_in_order_and_steps(self):
        def plan(seed):
            return plan_updates(6, 10, TrainSettings(passes=2, outfits_per_update=6, steps_per_outfit=2, seed=seed))

        first, second = plan(0)
        assert len({first.visits, second.visits, *(update.visits for update in plan(1))}) == 4

    def test_the_published_procedure_makes_one_update_per_outfit_and_step(self):
        updates = plan_updates(3, 50, paper_settings())
        assert len(updates) == 150
        assert all(len(update.visits) == 1 for update in updates)


class TestReadMetrics:
    def test_is_empty_where_nothing_was_written(self, tmp_path):
        assert read_metrics(tmp_path) == []

    def test_leaves_out_a_line_that_was_cut_off(self, tmp_path):
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "los')
        assert read_metrics(tmp_path) == [{"step": 1}]
