"""`fashiondpo evaluate --suite paper` on a run of the smoke assets: the three files, and what is painted only once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fashiondpo.evaluation.paper_table import PaperMetrics
from tests.unit.cli.command_line import CommandLine
from tests.unit.cli.conftest import Run

OUTFITS = 3


@pytest.fixture(scope="module")
def evaluated(fashiondpo: CommandLine, whole: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Both tasks, measured once."""
    run = whole.copied(tmp_path_factory.mktemp("paper") / "run")
    run.said["paper"] = fashiondpo("evaluate", "--run", run.folder, "--suite", "paper", "--outfits", OUTFITS)
    return run


@pytest.fixture(scope="module")
def metrics(evaluated: Run) -> PaperMetrics:
    assert evaluated.said["paper"].code == 0, evaluated.said["paper"].err
    return PaperMetrics.model_validate_json((evaluated.folder / "paper-metrics.json").read_text())


class TestFiles:
    def test_hold_both_tasks(self, metrics: PaperMetrics):
        assert [(t.task, t.outfits, t.candidates, t.pictures) for t in metrics.tables] == [
            ("pfitb", OUTFITS, 3, 3 * OUTFITS),
            ("gor", OUTFITS, 3, 4 * 3 * OUTFITS),
        ]

    def test_have_every_metric_that_needs_no_file(self, metrics: PaperMetrics):
        for table in metrics.tables:
            found = {row.key for row in table.rows}
            assert {"is", "is_accuracy", "clip_score", "clip_image_score", "diversity"} <= found
            assert {"judge_quality", "judge_compatibility", "judge_personalization", "harmony"} <= found
            assert len({key for key in found if key.startswith("fid_")}) == 2
            assert {left.title for left in table.left_out} >= {"LPIPS", "FID and KID on Inception"}
            assert len(table.warnings) == 2

    def test_put_judges_that_made_labels_apart(self, metrics: PaperMetrics):
        for table in metrics.tables:
            assert {row.key for row in table.of_group("labels")} == {
                "judge_quality", "judge_compatibility", "judge_personalization"
            }  # fmt: skip

    def test_have_intervals_around_their_differences(self, metrics: PaperMetrics):
        for row in (row for table in metrics.tables for row in table.rows):
            assert row.ci[0] <= row.delta <= row.ci[1]
            assert row.delta == pytest.approx(row.after - row.before, abs=1e-9)

    def test_say_the_same_in_words(self, evaluated: Run, metrics: PaperMetrics):
        markdown, page = ((evaluated.folder / f"paper-metrics.{s}").read_text() for s in ("md", "html"))
        assert metrics.title in markdown
        assert metrics.title in page
        for table in metrics.tables:
            for row in table.rows:
                assert row.title in markdown
                assert f"`{row.source}`" in markdown
        assert page.count("data:image/png;base64,") == 2

    def test_agree_with_the_report_of_the_run(self, evaluated: Run, metrics: PaperMetrics, whole: Run):
        report = json.loads((whole.folder / "report.json").read_text())
        rows = {row.key: row for row in metrics.tables[0].rows}
        for criterion, figure in report["judges"].items():
            row = rows[f"judge_{criterion}"]
            assert (row.before, row.after) == pytest.approx((figure["before"], figure["after"]), abs=1e-5)
        harmony = report["held_out"]["harmony"]
        assert rows["harmony"].before == pytest.approx(harmony["before"])


class TestConsole:
    def test_shows_the_tables_and_where_the_files_lie(self, evaluated: Run):
        said = evaluated.said["paper"].out
        assert "GOR: every slot empty" in said
        assert "Held out" in said
        assert f"The tables lie in {evaluated.folder / 'paper-metrics.html'}" in said


class TestAgain:
    def test_paints_nothing_that_was_painted(self, fashiondpo: CommandLine, evaluated: Run, metrics: PaperMetrics):
        before = {path: path.stat().st_mtime_ns for path in (evaluated.folder / "paper-metrics").iterdir()}
        assert len(before) == 4 * OUTFITS
        fashiondpo.well(
            "evaluate", "--run", evaluated.folder, "--suite", "paper", "--outfits", OUTFITS, "--task", "gor"
        )
        after = {path: path.stat().st_mtime_ns for path in (evaluated.folder / "paper-metrics").iterdir()}
        assert after == before
        again = PaperMetrics.model_validate_json((evaluated.folder / "paper-metrics.json").read_text())
        assert again.tables == metrics.tables[1:]


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--suite", "paper", "--task", "ctr"), "unknown task 'ctr': choose pfitb or gor"),
            (("--suite", "paper", "--split", "train"), "would prove nothing"),
            (("--suite", "paper", "--after", 0), "nothing to compare adapter version 0 with"),
            (("--suite", "paper", "--outfits", 9999), "9999 outfits were asked for"),
            (("--suite", "paper", "--lpips", "none.pth"), "none.pth"),
            (("--task", "gor"), "belong to --suite paper"),
            (("--inception", "w.pth"), "belong to --suite paper"),
        ],
    )
    def test_are_one_clear_line_before_anything_is_painted(self, fashiondpo, whole: Run, tmp_path: Path, options, said):
        run = whole.copied(tmp_path / "run")
        finished = fashiondpo("evaluate", "--run", run.folder, *options)
        assert finished.code == 2
        assert said in finished.err.replace("\n", " ")
        assert not (run.folder / "paper-metrics").exists()
