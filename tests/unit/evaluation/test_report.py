"""The report: self-contained, honest about the verdict, safe with whatever names the data brings."""

import base64
import dataclasses
import io
import json
import math
from html.parser import HTMLParser

import pytest
from PIL import Image

from fashiondpo.errors import DataFileError
from fashiondpo.evaluation.comparison import compare
from fashiondpo.evaluation.gate import decide
from fashiondpo.evaluation.report import RunReport, read_training_log, to_json, write_report

HOSTILE = '<script>alert("x")</script>'
LOG = [
    {"step": s, "loss": 0.69, "implicit_accuracy": 0.5, "margin": 0.0, "clipped_fraction": 0.1, "kl": 0.01 * s}
    for s in range(9)
]


@pytest.fixture
def report(measured, gallery_row):
    def build(gain=0.5, **changes) -> RunReport:
        before, after = measured(clip_score=0.3), measured(gain, noise=0.1, clip_score=0.31)
        comparison = compare(before, after, {"quality": 0.5, "compatibility": 0.25, "personalization": 0.25})
        made = {
            "title": "Round one",
            "comparison": comparison,
            "verdict": decide(comparison),
            "before": before,
            "after": after,
            "gallery": [gallery_row(), gallery_row("bag")],
            "training": LOG,
            "seconds": {"collect": 61.0, "train": 240.0},
            "facts": {"model": "mini"},
        }
        return RunReport(**{**made, **changes})

    return build


class Page(HTMLParser):
    """Tags, texts and attributes of a page, as a browser would see them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text, self.depth = [], [], "", 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.depth += tag not in {"meta", "img", "br", "link"}

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        self.depth -= 1

    def handle_data(self, data):
        self.text += data

    @property
    def images(self):
        return [value for name, value in self.attributes if name == "src"]


def page_of(folder, report):
    return Page(write_report(folder, report).read_text(encoding="utf-8"))


class TestFolder:
    def test_holds_the_page_the_figures_and_every_picture(self, tmp_path, report):
        written = write_report(tmp_path / "runs" / "demo", report())
        assert written.name == "report.html"
        assert {path.name for path in written.parent.iterdir()} == {
            "report.html",
            "report.json",
            "gallery.png",
            *(f"scores-{name}.png" for name in ("quality", "compatibility", "personalization")),
            *(f"training-{name}.png" for name in ("loss", "implicit_accuracy", "margin", "clipped_fraction", "kl")),
        }

    def test_can_be_written_again_with_the_same_result(self, tmp_path, report):
        first = write_report(tmp_path, report()).read_bytes()
        assert write_report(tmp_path, report()).read_bytes() == first

    def test_never_lies_elsewhere_whatever_a_judge_is_called(self, tmp_path, report):
        made = report()
        evil = ("../../evil", "compatibility", "personalization")
        before, after = (dataclasses.replace(side, criteria=evil) for side in (made.before, made.after))
        folder = tmp_path / "deep" / "down"
        write_report(
            folder,
            dataclasses.replace(made, before=before, after=after, comparison=compare(before, after, {evil[0]: 1})),
        )
        assert [path for path in tmp_path.rglob("*evil*") if path.parent != folder] == []


class TestJson:
    def test_has_the_promised_fields(self, report):
        shape = json.loads(to_json(report()))
        assert shape["combined"].keys() == {"delta", "ci"}
        assert isinstance(shape["win_rate"], float)
        assert shape["judges"]["quality"].keys() >= {"before", "after", "delta", "ci"}
        assert shape["held_out"]["clip_score"]["delta"] == pytest.approx(0.01)
        assert shape["seconds"] == {"collect": 61.0, "train": 240.0}
        assert shape["verdict"]["is_promoted"] is True

    def test_stays_valid_when_training_went_astray(self, report):
        astray = report(training=[{"step": 1, "loss": math.nan}])
        assert json.loads(to_json(astray))["training"] == {"rows": 1, "last": {"step": 1, "loss": None}}


class TestPage:
    def test_needs_nothing_beside_it(self, tmp_path, report):
        page = page_of(tmp_path, report())
        assert {"link", "script", "iframe", "object"}.isdisjoint(page.tags)
        assert all(uri.startswith("data:image/png;base64,") for uri in page.images)
        assert [value for name, value in page.attributes if name in {"href", "action", "srcset"}] == []

    def test_forbids_itself_to_load_anything(self, tmp_path, report):
        assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page_of(
            tmp_path, report()
        ).attributes

    def test_shows_every_item_and_candidate_as_a_picture(self, tmp_path, report):
        page = page_of(tmp_path, report())
        # Two outfits with 3 given items, 2 earlier ones, the true one and 14 candidates; 3 histograms; 5 curves.
        assert len(page.images) == 2 * (3 + 2 + 1 + 14) + 3 + 5
        for uri in page.images:
            assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).format == "PNG"

    def test_describes_every_picture_in_words(self, tmp_path, report):
        page = page_of(tmp_path, report())
        assert len([value for name, value in page.attributes if name == "alt" and value]) == len(page.images)

    def test_closes_every_tag(self, tmp_path, report):
        assert page_of(tmp_path, report()).depth == 0

    def test_frames_one_candidate_per_row(self, tmp_path, report):
        assert page_of(tmp_path, report()).attributes.count(("class", "best")) == 4

    def test_announces_a_promotion_with_its_figures(self, tmp_path, report):
        made = report()
        text = page_of(tmp_path, made).text
        assert "Promoted." in text
        assert f"{made.comparison.win_rate:.1%}" in text
        assert all(reason in text for reason in made.verdict.reasons)

    def test_announces_a_refusal_with_its_reasons(self, tmp_path, report):
        made = report(gain=-0.5)
        text = page_of(tmp_path, made).text
        assert "Refused." in text
        assert "Promoted." not in text
        assert made.verdict.reasons[0] in text

    def test_says_which_weights_the_combined_score_has(self, tmp_path, report):
        assert "quality 50%, compatibility 25%, personalization 25%" in page_of(tmp_path, report()).text

    def test_explains_how_to_read_it(self, tmp_path, report):
        assert "How to read this" in page_of(tmp_path, report()).text

    def test_shows_candidates_without_a_score(self, tmp_path, report, gallery_row):
        row = gallery_row(before_scores=(math.nan,) * 7, history=(), true_item=None)
        text = page_of(tmp_path, report(gallery=[row])).text
        assert text.count("no score") == 7
        assert "no earlier items" in text

    def test_leaves_out_what_there_is_nothing_to_say_of(self, tmp_path, report):
        text = page_of(tmp_path, report(gallery=[], training=[], seconds={}, facts={})).text
        assert "Before and after" not in text
        assert "How training went" not in text
        assert "Time," not in text


class TestHostileNames:
    def test_reach_the_page_as_text_only(self, tmp_path, report, gallery_row, measured):
        before, after = measured(**{HOSTILE: 1.0}), measured(0.5, **{HOSTILE: 1.1})
        hostile = report(
            title=HOSTILE,
            comparison=compare(before, after, {"quality": 1.0}),
            verdict=report().verdict.model_copy(update={"reasons": (HOSTILE,)}),
            gallery=[gallery_row(category=HOSTILE)],
            seconds={HOSTILE: 1.0},
            facts={HOSTILE: HOSTILE},
            meanings={"quality": HOSTILE},
        )
        page = page_of(tmp_path, hostile)
        assert "script" not in page.tags
        # Title twice; verdict, metric, category, part, fact and its name, meaning once each.
        assert page.text.count(HOSTILE) == 9


class TestTrainingLog:
    def test_is_read_line_by_line(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"step": 1, "loss": 0.69, "note": "x"}\n{"step": 2, "loss": 0.68}\n')
        assert read_training_log(path) == [{"step": 1.0, "loss": 0.69}, {"step": 2.0, "loss": 0.68}]

    def test_forgives_the_line_at_which_the_process_was_killed(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"step": 1, "loss": 0.69}\n{"step": 2, "lo')
        assert len(read_training_log(path)) == 1

    @pytest.mark.parametrize("line", ["{oops", "[1, 2]", '{"loss": 1}'])
    def test_names_the_line_that_is_malformed(self, tmp_path, line):
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"step": 1}\n' + line + "\n")
        with pytest.raises(DataFileError, match=r"metrics\.jsonl, line 2"):
            read_training_log(path)
