"""The three files of the metrics of the papers, read as their readers read them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.paper_gallery import CompletedOutfit, draw_outfits
from fashiondpo.evaluation.paper_report import to_html, to_markdown, write_paper_report
from fashiondpo.evaluation.paper_table import GROUP_TITLES, LeftOut, MetricRow, PaperMetrics, PaperTable
from fashiondpo.outfits.images import decode_image
from fashiondpo.outfits.model import Image


def row(key: str = "clip_score", **changes) -> MetricRow:
    made = {
        "key": key, "title": "CLIP score", "detail": "picture and category", "group": "shared", "source": "clip-1",
        "truth": 31.2, "before": 28.05, "after": 29.1, "delta": 1.05, "ci": (0.4, 1.7),
        "interval": "bootstrap over outfits", "outfits": 60, "digits": 2, "is_lower_better": False,
    }  # fmt: skip
    return MetricRow(**{**made, **changes})


def metrics(**changes) -> PaperMetrics:
    rows = (
        row("fid", title="FID", detail="features: held-out-1", group="held_out", source="held-out-1", truth=None,
            delta=-3.0, ci=(-9.0, 3.0), is_lower_better=True),
        row(),
        row("mismatched", title="… of other users", is_lower_better=None),
        row("judge_quality", title="Quality", group="labels", source="quality-1", delta=-0.2, ci=(-0.3, -0.1)),
    )  # fmt: skip
    made = {
        "task": "pfitb", "outfits": 64, "candidates": 7, "pictures": 448, "real_pictures": 3200, "rows": rows,
        "left_out": (LeftOut(title="LPIPS", reason="no weights were given"),),
        "warnings": ("FID: the covariance has not full rank",),
    }  # fmt: skip
    table = PaperTable(**{**made, **changes})
    return PaperMetrics(
        title="Metrics of the papers: adapter 3 against base",
        before="base",
        after="adapter 3",
        facts={"data set": "<b>mini</b>, test split", "CLIP": "clip-1"},
        tables=(table, table.model_copy(update={"task": "gor"})),
    )


def picture(tint: int) -> Image:
    image = np.full((32, 32, 3), 255, np.uint8)
    image[8:24, 8:24] = (tint, 90, 120)
    return image


def outfit(slots: tuple[int, ...] = (1,), candidates: int = 7, **changes) -> CompletedOutfit:
    painted = tuple(tuple(picture(20 * k + s) for s in slots) for k in range(candidates))
    made = {
        "title": "coat", "subtitle": "user 1, outfit 2", "truth": tuple(picture(60 * s) for s in range(4)),
        "slots": slots, "history": (picture(1), picture(2)), "before": painted, "after": painted,
    }  # fmt: skip
    return CompletedOutfit(**{**made, **changes})


class Cells(HTMLParser):
    """Texts of table cells, row by row, and addresses of everything that would be loaded."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.is_in_cell = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.is_in_cell = True

    def handle_endtag(self, tag):
        self.is_in_cell &= tag not in ("td", "th")

    def handle_data(self, data):
        if self.is_in_cell:
            self.rows[-1][-1] += data


class TestMarkdown:
    def test_has_a_table_per_group_with_what_proves_most_first(self):
        text = to_markdown(metrics())
        places = [text.index(f"### {title}") for title in GROUP_TITLES.values()]
        assert places == sorted(places)

    def test_a_row_names_both_sides_the_difference_and_what_was_looked_through(self):
        (line,) = {line for line in to_markdown(metrics()).splitlines() if line.startswith("| CLIP score")}
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells == [
            "CLIP score ↑ (picture and category)", "31.20", "28.05", "29.10", "+1.05 (+0.40 to +1.70)", "better", "60",
            "`clip-1`",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("start", "said"), [("FID ↓", "may be chance"), ("Quality ↑", "worse"), ("… of other users (", "–")]
    )
    def test_says_what_a_difference_means(self, start, said):
        (line,) = {line for line in to_markdown(metrics()).splitlines() if line.startswith(f"| {start}")}
        assert line.split("|")[6].strip() == said

    def test_every_row_has_as_many_cells_as_its_head(self):
        lines = [line for line in to_markdown(metrics()).splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {9}

    def test_tells_what_is_missing_and_what_to_be_careful_of(self):
        text = to_markdown(metrics())
        assert "- LPIPS: no weights were given" in text
        assert "> **Careful:** FID: the covariance has not full rank." in text


class TestHtml:
    def test_says_the_same_as_the_markdown(self):
        cells = Cells(to_html(metrics(), {})).rows
        (found,) = {tuple(" ".join(cell.split()) for cell in row) for row in cells if row[0].startswith("CLIP score")}
        assert found == (
            "CLIP score ↑picture and categoryclip-1", "31.20", "28.05", "29.10", "+1.05 (+0.40 to +1.70)better", "60"
        )  # fmt: skip

    def test_asks_nothing_of_the_network(self):
        png = draw_outfits([outfit()], ("base", "adapter 3"))
        page = to_html(metrics(), {"pfitb": png, "gor": png})
        addresses = Cells(page).addresses
        assert len(addresses) == 2
        assert all(address.startswith("data:image/png;base64,") for address in addresses)
        assert "default-src 'none'" in page

    def test_escapes_what_comes_from_data(self):
        page = to_html(metrics(), {})
        assert "&lt;b&gt;mini&lt;/b&gt;" in page
        assert "<b>mini" not in page


class TestWrite:
    def test_writes_three_files_of_one_content(self, tmp_path: Path):
        made = metrics()
        path = write_paper_report(tmp_path / "run", made, {"pfitb": draw_outfits([outfit()], ("base", "adapter 3"))})
        assert {file.name for file in path.parent.iterdir()} == {f"paper-metrics.{s}" for s in ("json", "md", "html")}
        assert PaperMetrics.model_validate_json((path.parent / "paper-metrics.json").read_text()) == made
        assert json.loads((path.parent / "paper-metrics.json").read_text())["schema_version"] == 1
        assert (path.parent / "paper-metrics.md").read_text() == to_markdown(made)


class TestGallery:
    def test_shows_seven_candidates_of_one_slot_or_two_of_whole_outfits(self):
        single, whole = (decode_image(draw_outfits([outfit(slots)], ("a", "b"))) for slots in ((1,), (0, 1, 2, 3)))
        assert single.shape[0] == whole.shape[0]
        assert whole.shape[1] > single.shape[1]

    def test_puts_outfits_below_each_other(self):
        one, three = (decode_image(draw_outfits([outfit()] * count, ("a", "b"))) for count in (1, 3))
        assert three.shape[1] == one.shape[1]
        assert three.shape[0] > 2 * one.shape[0]

    def test_holds_the_pictures_themselves(self):
        red = np.full((32, 32, 3), (250, 10, 20), np.uint8)
        drawn = decode_image(draw_outfits([outfit(after=((red,),))], ("a", "b")))
        assert (drawn == (250, 10, 20)).all(-1).sum() > 10_000

    @pytest.mark.parametrize("changes", [{"slots": ()}, {"before": ((picture(1), picture(2)),)}])
    def test_refuses_candidates_that_do_not_fill_the_slots(self, changes):
        with pytest.raises(InvalidInput, match="a picture for each of the slots"):
            outfit(**changes)
