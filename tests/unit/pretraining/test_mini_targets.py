"""What `train_mini` may replace."""

import pytest

from fashiondpo.errors import InvalidInput
from fashiondpo.pretraining.mini import SMOKE_RECIPE, train_mini


class TestTarget:
    def test_that_holds_something_else_is_refused_and_left_alone(self, tmp_path):
        precious = tmp_path / "thesis" / "chapter.txt"
        precious.parent.mkdir()
        precious.write_text("the only copy")
        with pytest.raises(InvalidInput, match="something other than mini models"):
            train_mini(tmp_path / "no-files-needed", precious.parent, SMOKE_RECIPE)
        assert precious.read_text() == "the only copy"
