"""Checkpoints of a round: each lease has a folder of its own, and goes on from the one before."""

from __future__ import annotations

from services.trainer.training_folders import CHECKPOINT, take_over_training


def state_of(folder) -> str | None:
    path = folder / CHECKPOINT
    return path.read_text() if path.exists() else None


class TestTakingOver:
    def test_begins_with_an_empty_folder(self, tmp_path):
        folder = take_over_training(tmp_path, "round-0001", 3)
        assert folder.is_dir() and not list(folder.iterdir())

    def test_copies_what_the_lease_before_has_left(self, tmp_path):
        (take_over_training(tmp_path, "round-0001", 3) / CHECKPOINT).write_text("after 4 updates")
        assert state_of(take_over_training(tmp_path, "round-0001", 5)) == "after 4 updates"

    def test_a_late_holder_that_still_writes_changes_nothing_for_the_next(self, tmp_path):
        late = take_over_training(tmp_path, "round-0001", 3)
        (late / CHECKPOINT).write_text("after 4 updates")
        folder = take_over_training(tmp_path, "round-0001", 5)
        (late / CHECKPOINT).write_text("late")
        assert state_of(folder) == "after 4 updates"

    def test_skips_leases_that_left_no_state(self, tmp_path):
        (take_over_training(tmp_path, "round-0001", 3) / CHECKPOINT).write_text("after 4 updates")
        take_over_training(tmp_path, "round-0001", 4).joinpath(CHECKPOINT).unlink()
        assert state_of(take_over_training(tmp_path, "round-0001", 5)) == "after 4 updates"

    def test_keeps_the_folder_it_has_taken(self, tmp_path):
        folder = take_over_training(tmp_path, "round-0001", 3)
        (folder / CHECKPOINT).write_text("mine")
        assert state_of(take_over_training(tmp_path, "round-0001", 3)) == "mine"

    def test_removes_what_nobody_needs_any_more(self, tmp_path):
        for token in (1, 2, 1763_000_000_000, 1763_000_000_001):
            (take_over_training(tmp_path, "round-0001", token) / CHECKPOINT).write_text(str(token))
        assert len(list((tmp_path / "round-0001").iterdir())) == 2

    def test_rounds_do_not_see_each_other(self, tmp_path):
        (take_over_training(tmp_path, "round-0001", 3) / CHECKPOINT).write_text("one")
        assert state_of(take_over_training(tmp_path, "round-0002", 5)) is None
