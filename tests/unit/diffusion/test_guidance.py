import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fashiondpo.diffusion.guidance import branch_weights, guide
from tests.reference import diffusion_formulas as reference

scale = st.floats(-20, 20)


def branches(seed: int = 0, rows: int = 2) -> torch.Tensor:
    return torch.randn(4, rows, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestGuide:
    @given(st.tuples(scale, scale, scale), st.tuples(scale, scale, scale))
    def test_is_the_published_sum_with_scales_of_each_row(self, first, second):
        made = guide(branches(), torch.tensor([first, second], dtype=torch.float64))
        none, category, mutual, history = branches().numpy()
        for row, scales in enumerate((first, second)):
            expected = reference.guided(none[row], category[row], mutual[row], history[row], scales)
            assert_close(made[row].numpy(), expected, rtol=1e-11, atol=1e-11)

    def test_with_all_scales_one_is_the_fully_conditioned_prediction(self):
        assert_close(guide(branches(), torch.ones(2, 3)), branches()[3], rtol=1e-14, atol=1e-14)

    def test_with_all_scales_zero_is_the_prediction_without_conditions(self):
        assert torch.equal(guide(branches(), torch.zeros(2, 3)), branches()[0])

    @given(st.floats(-5, 5))
    def test_is_linear_in_the_predictions(self, factor):
        scales = torch.tensor([[12.0, 5.0, 4.0], [1.0, 2.0, 3.0]])
        apart = guide(branches(0), scales) + factor * guide(branches(1), scales)
        assert_close(guide(branches(0) + factor * branches(1), scales), apart, rtol=1e-10, atol=1e-10)

    def test_leaves_predictions_alone_that_all_conditions_agree_on(self):
        same = branches()[:1].expand(4, -1, -1, -1, -1)
        assert_close(guide(same, torch.tensor([[12.0, 5.0, 4.0]] * 2)), same[0])

    @pytest.mark.parametrize("count", [3, 5])
    def test_refuses_another_number_of_branches(self, count):
        with pytest.raises(ValueError, match=f"expected 4 branches, got {count}"):
            guide(torch.zeros(count, 2, 3, 2, 2), torch.ones(2, 3))

    @pytest.mark.parametrize("shape", [(1, 3), (2, 2), (3,)])
    def test_refuses_scales_that_are_not_three_per_row(self, shape):
        with pytest.raises(ValueError, match=r"expected scales of shape \(2, 3\)"):
            guide(branches(), torch.ones(shape))

    def test_of_branches_that_have_weight_is_that_of_all(self):
        scales = torch.tensor([[3.0, 2.0, 2.0], [5.0, 4.0, 4.0]], dtype=torch.float64)
        used = (0, 1, 3)
        assert torch.equal(guide(branches()[list(used)], scales, used), guide(branches(), scales))

    def test_refuses_other_branches_than_it_is_told(self):
        with pytest.raises(ValueError, match="expected 3 branches, got 4"):
            guide(branches(), torch.ones(2, 3), used=(0, 1, 3))


class TestBranchWeights:
    @given(st.tuples(scale, scale, scale))
    def test_add_up_to_one(self, scales):
        assert_close(branch_weights(torch.tensor([scales], dtype=torch.float64)).sum(0), torch.ones(1).double())

    def test_leave_a_branch_out_where_two_scales_agree(self):
        assert branch_weights(torch.tensor([[3.0, 2.0, 2.0]])).flatten().tolist() == [-2, 1, 0, 2]
