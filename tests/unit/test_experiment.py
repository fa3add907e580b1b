"""Experiments: what is compared with what, and that the intervals over seeds are Student's."""

import json

import pytest
from scipy import stats

from fashiondpo.errors import DataFileError, InvalidInput
from fashiondpo.evaluation.comparison import Change, Comparison, Figure
from fashiondpo.experiment import Experiment, Result, read_experiment, read_results, seed_interval, table


def result(configuration, seed, gain, *, seconds=10.0):
    figure = Figure(delta=gain, ci=(gain, gain), before=1.0, after=1.0 + gain, sigma=2.0, outfits=5)
    change = Change(delta=gain, ci=(gain, gain))
    comparison = Comparison(
        combined=change,
        win_rate=0.6,
        win_rate_ci=(0.5, 0.7),
        judges={"quality": figure},
        held_out={"palette": figure},
        best_of_k=change,
        diversity=figure,
        diversity_ratio=0.98,
        outfits=5,
        candidates=7,
        weights={"quality": 1.0},
    )
    return Result(configuration=configuration, seed=seed, train_seconds=seconds, training={}, comparison=comparison)


class TestSeedInterval:
    @pytest.mark.parametrize("count", [2, 3, 5, 10])
    def test_is_students(self, count):
        values = [0.1 * i**2 for i in range(count)]
        expected = stats.t.interval(0.95, count - 1, loc=sum(values) / count, scale=stats.sem(values))
        found = seed_interval(values)
        assert (found.low, found.high) == pytest.approx(expected, rel=1e-3)

    def test_of_one_seed_claims_nothing_beyond_it(self):
        assert (seed_interval([0.3]).low, seed_interval([0.3]).high) == (0.3, 0.3)

    def test_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="at least one value"):
            seed_interval([])


class TestTable:
    def test_compares_with_the_first_configuration_seed_by_seed(self):
        rows = table([result("a", 0, 0.1), result("b", 0, 0.3), result("a", 1, 0.5), result("b", 1, 0.7)])
        assert [row.configuration for row in rows] == ["a", "b"]
        assert rows[0].against_first.mean == 0
        # the seeds differ by 0.4, the configurations by 0.2 with every seed
        assert rows[1].against_first.low == pytest.approx(0.2)
        assert rows[1].against_first.high == pytest.approx(0.2)
        assert rows[1].combined.high > 1

    def test_gives_judges_in_their_spread_and_held_out_figures_as_they_are(self):
        (row,) = table([result("a", 0, 0.1)])
        assert row.judges == {"quality": pytest.approx(0.05)}
        assert row.held_out == {"palette": pytest.approx(0.1)}

    def test_a_seed_that_the_first_does_not_have_yet_is_not_compared(self):
        rows = table([result("a", 0, 0.1), result("b", 0, 0.3), result("b", 1, 9.0)])
        assert rows[1].against_first.mean == pytest.approx(0.2)


class TestSettings:
    def test_a_configuration_changes_the_training_and_a_seed_everything(self):
        asked = Experiment(configurations={"a": {}, "b": {"rank": 8}}, seeds=(3,))
        assert asked.settings("a", 3).training == asked.run.training.model_copy(update={"seed": 3})
        assert asked.settings("b", 3).training.rank == 8
        assert asked.settings("b", 3).seed == 3

    def test_a_configuration_that_cannot_be_is_named_before_anything_is_painted(self, tmp_path):
        (tmp_path / "e.json").write_text(json.dumps({"configurations": {"a": {}, "b": {"rank": 0}}}))
        with pytest.raises(InvalidInput, match=r"configuration 'b' cannot be: .*rank"):
            read_experiment(tmp_path / "e.json")

    def test_a_configuration_may_ask_other_judges(self):
        asked = Experiment(configurations={"a": {}, "b": {}}, weights={"b": {"votes": 1}}, taste="dark")
        assert asked.settings("a", 0).preferences == asked.run.preferences
        assert asked.settings("b", 0).preferences.weights == {"votes": 1}

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"weights": {"b": {"votes": 1}}}, "weights are given for b, which is no configuration"),
            ({"weights": {"a": {"votes": 0}}}, "configuration 'a' cannot be: .*above zero"),
            ({"taste": "loud"}, "no taste 'loud'; known: dark, large"),
        ],
    )
    def test_wishes_that_cannot_be_are_named_before_anything_is_painted(self, tmp_path, more, message):
        (tmp_path / "e.json").write_text(json.dumps({"configurations": {"a": {}}} | more))
        with pytest.raises(InvalidInput, match=message):
            read_experiment(tmp_path / "e.json")

    @pytest.mark.parametrize("content", ["{", "[]", '{"configurations": {}}', '{"configurations": {"a": {}}, "x": 1}'])
    def test_what_is_no_experiment_is_refused(self, tmp_path, content):
        (tmp_path / "e.json").write_text(content)
        with pytest.raises(InvalidInput, match="describes no experiment"):
            read_experiment(tmp_path / "e.json")

    def test_a_file_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(InvalidInput, match=r"missing\.json cannot be read"):
            read_experiment(tmp_path / "missing.json")

    def test_training_outfits_prove_nothing(self):
        with pytest.raises(ValueError, match="split"):
            Experiment(configurations={"a": {}}, split="train")


class TestShipped:
    def test_every_experiment_of_the_documentation_can_be_run(self, repository):
        files = sorted((repository / "docs" / "experiments").glob("*.json"))
        assert [file.stem for file in files] == ["objectives", "rate", "wishes"]
        for file in files:
            assert len(read_experiment(file).configurations) > 1


class TestResults:
    def test_a_line_that_is_none_is_named(self, tmp_path):
        (tmp_path / "results.jsonl").write_text("{}\n")
        with pytest.raises(DataFileError, match=r"results\.jsonl: holds a line that is no result"):
            read_results(tmp_path)
