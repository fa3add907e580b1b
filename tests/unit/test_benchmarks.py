"""The benchmarks: every one runs as a command in its quick mode, and what they measure with is right."""

import json
import subprocess
import sys
from argparse import ArgumentTypeError
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks.measuring.timing import ForwardClock, Timing, alternate, print_figures
from benchmarks.peers.load import shares

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))

PROMISED = {
    "compile_swap": {"ratio", "compile_s"},
    "d3po_step": {"ratio", "flop_ratio_sd2"},
    "judges": {"ratio", "ratio_with_files", "ratio_of_references"},
    "sampling": {"ratio", "unet_share"},
    "serving": {"throughput_vs_litserve", "p95_vs_litserve", "bare_s"},
    "swap": {"swap_ms"},
    "vbpr_training": {"ratio", "pass_s", "reference_pass_s", "table_s"},
    "trajectory_storage": {"mib_per_outfit", "reference_mib_per_outfit", "ratio", "write_s", "read_s"},
}


@cache
def quick_run(name: str) -> tuple[list[str], dict]:
    """What the command prints, and the JSON of its last line; each benchmark runs once."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick", "--threads", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd="/")
    assert result.returncode == 0, result.stderr
    *lines, last = result.stdout.splitlines()
    return lines, json.loads(last)


def figures(name: str) -> dict:
    return quick_run(name)[1]


class TestBenchmark:
    def test_has_figures_that_are_promised_for_it(self):
        assert set(PROMISED) == set(BENCHMARKS)

    @pytest.mark.parametrize("name", BENCHMARKS)
    def test_ends_with_the_promised_figures_as_json(self, name):
        found = figures(name)
        assert PROMISED[name] <= found.keys()
        assert all(found[key] > 0 for key in PROMISED[name])

    @pytest.mark.parametrize("name", BENCHMARKS)
    def test_says_before_in_words_what_it_measures(self, name):
        assert quick_run(name)[0][0].startswith(("Time", "Bytes", "Bundle"))

    @pytest.mark.parametrize("name", BENCHMARKS)
    def test_is_explained_in_the_documentation(self, name):
        assert f"python benchmarks/{name}.py" in (ROOT / "docs/benchmarks.md").read_text()


class TestServing:
    def test_answers_every_request_and_tells_what_http_and_engine_cost(self):
        assert figures("serving")["failed_at_80"] == 0
        assert "overhead" in figures("serving")


class TestShares:
    @pytest.mark.parametrize(("text", "found"), [("0.8", (0.8,)), ("0.5,2.0", (0.5, 2.0)), ("none", ())])
    def test_are_numbers_between_commas_or_none_at_all(self, text, found):
        assert shares(text) == found

    @pytest.mark.parametrize("text", ["", "0.5,", "much", "0", "-1", "nan", "inf", "0.5;1"])
    def test_are_refused_if_they_are_anything_else(self, text):
        with pytest.raises(ArgumentTypeError, match=r"expected shares such as 0\.8,1\.3, or none; got"):
            shares(text)


class TestSwap:
    def test_fails_no_request(self):
        assert figures("swap")["failed_requests"] == 0


class TestD3POStep:
    def test_compares_schemes_with_the_same_loss_and_gradient(self):
        assert figures("d3po_step")["loss_difference"] < 1e-6
        assert figures("d3po_step")["gradient_difference"] < 1e-4

    def test_needs_less_than_a_quarter_of_the_operations_at_stable_diffusion_2_size(self):
        assert figures("d3po_step")["flop_ratio_sd2"] >= 4

    def test_would_need_less_than_a_quarter_even_if_the_published_backwards_were_free(self):
        found = figures("d3po_step")
        assert 4 <= found["flop_ratio_sd2_forwards_only"] < found["flop_ratio_sd2"]

    def test_counts_a_backward_that_costs_about_as_much_as_its_forward_where_only_an_adapter_trains(self):
        # published = 42 (2 f + b) and forwards only = 42 (2 f), with forward f and backward b of one candidate
        found = figures("d3po_step")
        backward = 2 * (found["flop_ratio_sd2"] / found["flop_ratio_sd2_forwards_only"] - 1)
        assert 0.9 < backward < 1.4


class TestTrajectoryStorage:
    def test_takes_at_most_13_mebibytes_per_outfit(self):
        assert figures("trajectory_storage")["mib_per_outfit"] <= 13

    def test_is_little_more_than_the_states_themselves(self):
        states = 7 * 51 * 4 * 64 * 64 * 2 / 2**20
        assert states < figures("trajectory_storage")["mib_per_outfit"] < 1.05 * states

    def test_weighs_the_published_tensors_by_their_shapes(self):
        step = 4 * 64 * 64
        per_candidate = 49 * step + 49 * step + 4 * 50 * 2 * step + 50 * step
        expected = 4 * (7 * per_candidate + 4 * 77 * 1024) / 2**20
        assert figures("trajectory_storage")["reference_mib_per_outfit"] == pytest.approx(expected, rel=1e-3)


class TestSampling:
    def test_compares_runs_that_paint_the_same_pictures(self):
        assert figures("sampling")["pixel_difference"] <= 2

    def test_spends_a_share_of_its_time_in_the_unet(self):
        assert 0 < figures("sampling")["unet_share"] <= 1


class TestAlternate:
    def test_gives_every_competitor_a_turn_per_round(self):
        turns = []
        alternate(
            {"a": lambda n: turns.append(("a", n)), "b": lambda n: turns.append(("b", n))}, rounds=2, warm_up=False
        )
        assert turns == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]

    def test_warms_up_with_one_more_round_that_is_not_timed(self):
        turns = []
        timings = alternate({"a": turns.append}, rounds=3)
        assert turns == [0, 0, 1, 2]
        assert len(timings["a"].seconds) == 3

    def test_refuses_to_time_nothing(self):
        with pytest.raises(ValueError, match="at least one round is needed, got 0"):
            alternate({"a": lambda _: None}, rounds=0)


class TestTiming:
    def test_is_described_by_median_range_and_rounds(self):
        assert str(Timing((3.0, 1.0, 2.0))) == "median 2 s, 1 to 3 s in 3 rounds"

    def test_spread_is_the_range_over_the_median(self):
        assert Timing((3.0, 1.0, 2.0)).spread == 1.0

    @given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=9), st.floats(1e-3, 1e3))
    def test_spread_does_not_depend_on_the_unit(self, seconds, factor):
        scaled = Timing(tuple(s * factor for s in seconds))
        assert scaled.spread == pytest.approx(Timing(tuple(seconds)).spread, rel=1e-6, abs=1e-9)


class Waiting(nn.Module):
    """Takes a while; two such forwards are told apart from what happens around them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.matrix_power(x, 64)


class TestForwardClock:
    def test_counts_every_forward_while_it_is_on(self):
        module, x = Waiting(), torch.eye(256)
        with ForwardClock().on(module) as clock:
            module(x)
            after_one = clock.seconds
            module(x)
        assert 0 < after_one < clock.seconds

    def test_does_not_count_what_happens_outside_the_module(self):
        module, x = Waiting(), torch.eye(256)
        with ForwardClock().on(module) as clock:
            torch.linalg.matrix_power(x, 64)
        assert clock.seconds == 0

    def test_counts_nothing_after_it_is_off(self):
        module, x = Waiting(), torch.eye(8)
        with ForwardClock().on(module) as clock:
            module(x)
        before = clock.seconds
        module(x)
        assert clock.seconds == before


class TestFigures:
    def test_are_printed_as_one_line_of_json_with_four_digits(self, capsys):
        print_figures({"ratio": 19.2151169, "rounds": 7, "small": 1.90369e-06})
        assert capsys.readouterr().out == '{"ratio": 19.22, "rounds": 7, "small": 1.904e-06}\n'
