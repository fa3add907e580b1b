"""The recipe of the mini models: every part, in order, resumable; the card and the picture that go with them."""

from __future__ import annotations

import io
import json
import shutil

import pytest
from PIL import Image

from fashiondpo.diffusion.model import load_bundle
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.held_out import HeldOutJudge
from fashiondpo.judges.quality import MiniQualityJudge
from fashiondpo.judges.vbpr import VBPR
from fashiondpo.outfits.sources import load_data_set
from fashiondpo.pretraining.card import conditions_table, render_card
from fashiondpo.pretraining.contact_sheet import draw_contact_sheet
from fashiondpo.pretraining.mini import SMOKE_RECIPE, train_mini
from fashiondpo.pretraining.paintings import paint
from tests.smoke_assets import StoppedError
from tests.tiny_models import build_tiny_bundle

PARTS = (
    "catalogue",
    "autoencoder",
    "clip",
    "compatibility",
    "held_out",
    "generator",
    "quality",
    "critic",
    "conditions",
)
ROW_PX, HEAD_PX = 70, 28


class TestParts:
    def test_the_catalogue_can_be_read_and_has_the_recipe_s_users(self, smoke_assets):
        data_set = load_data_set(smoke_assets / "catalogue")
        for group in SMOKE_RECIPE.shipped:
            assert len({o.user_id for o in data_set.split(group.split)}) == group.users

    def test_the_bundle_can_be_read_and_paints_at_the_catalogue_s_size(self, smoke_assets):
        bundle, data_set = load_bundle(smoke_assets / "bundle"), load_data_set(smoke_assets / "catalogue")
        assert bundle.image_size == data_set.catalogue.image_size
        assert set(bundle.categories) == set(data_set.categories)

    def test_every_judge_can_be_read(self, smoke_assets):
        judges = smoke_assets / "judges"
        features = OpenClipFeatures.load(judges / "clip")
        assert VBPR.load(judges / "vbpr").config.feature_id == features.feature_id
        MiniQualityJudge.load(judges / "quality")
        data_set = load_data_set(smoke_assets / "catalogue")
        held_out = HeldOutJudge.load(judges / "held_out", data_set.catalogue)
        assert held_out.realism([data_set.catalogue.image(1)]).shape == (1,)

    def test_judge_and_critic_learn_from_paintings_of_other_outfits(self, smoke_run, monkeypatch, tmp_path):
        seen: list[tuple[str, set[int]]] = []

        def painted(bundle, data_set, split, blanks, **_more):
            seen.append((split, {blank.outfit.outfit_id for blank in blanks}))
            return paint(bundle, data_set, split, blanks, **_more)

        monkeypatch.setattr("fashiondpo.pretraining.mini.paint", painted)
        unfinished = tmp_path / "mini.unfinished"
        shutil.copytree(smoke_run.folder, unfinished)
        state = json.loads((unfinished / "figures.json").read_text())
        kept = {part: state[part] for part in PARTS[: PARTS.index("quality")]}
        (unfinished / "figures.json").write_text(json.dumps(kept))
        train_mini(smoke_run.silhouettes, tmp_path / "mini", SMOKE_RECIPE)
        careful = [ids for split, ids in seen if split == "train" and len(ids) == SMOKE_RECIPE.painted_pictures]
        assert len(careful) == 2
        assert careful[0].isdisjoint(careful[1])

    def test_nothing_unfinished_is_left(self, smoke_assets):
        assert {path.name for path in smoke_assets.iterdir()} == {
            "README.md",
            "bundle",
            "catalogue",
            "figures.json",
            "judges",
            "samples.png",
        }
        assert not smoke_assets.with_name("mini.unfinished").exists()


class TestStoppedRun:
    def test_goes_on_with_the_first_unfinished_part_and_trains_no_other_again(self, smoke_run):
        first, second, _ = smoke_run.begun
        assert first == PARTS[: PARTS.index("generator") + 1]
        assert second == ("generator",)

    def test_with_changed_settings_trains_again_from_the_changed_part_on(self, smoke_run):
        assert smoke_run.begun[2] == PARTS[PARTS.index("held_out") :]

    def test_leaves_the_old_target_alone_until_everything_is_there(self, smoke_run):
        assert smoke_run.kept_old_target
        assert not (smoke_run.folder / "old.txt").exists()

    def test_needs_no_part_again_that_was_finished_by_a_killed_run(self, smoke_run, tmp_path):
        half = tmp_path / "mini.unfinished"
        half.mkdir()
        figures = json.loads((smoke_run.folder / "figures.json").read_text())
        (half / "figures.json").write_text(json.dumps({part: figures[part] for part in PARTS[:3]}))
        begun: list[str] = []

        def begin(part: str):
            begun.append(part)
            raise StoppedError(part)

        with pytest.raises(StoppedError):
            train_mini(smoke_run.silhouettes, tmp_path / "mini", SMOKE_RECIPE, progress=begin)
        assert begun == ["compatibility"]


class TestFigures:
    def test_are_returned_and_written_for_every_part(self, smoke_run):
        written = json.loads((smoke_run.folder / "figures.json").read_text())
        assert tuple(written) == PARTS
        assert {part: of_part["figures"] for part, of_part in written.items()} == smoke_run.figures
        assert all(of_part["seconds"] >= 0 for of_part in smoke_run.figures.values())


class TestCard:
    @pytest.fixture
    def card(self, smoke_assets) -> str:
        return (smoke_assets / "README.md").read_text()

    def test_is_made_of_the_written_figures_alone(self, smoke_assets, card):
        written = json.loads((smoke_assets / "figures.json").read_text())
        assert card == render_card({part: of_part["figures"] for part, of_part in written.items()})

    @pytest.mark.parametrize(
        "said",
        [
            "MIT licence",
            "The above copyright notice and this permission notice shall be included in all copies",
            "Copyright © 2017 Zalando SE",
            "arXiv:1708.07747",
            "make assets",
            "fashiondpo pretrain --preset mini --out assets/mini",
            "(samples.png)",
            "`figures.json`",
        ],
    )
    def test_says_source_licence_and_how_to_make_them_again(self, card, said):
        assert said in card

    def test_says_how_long_it_took(self, smoke_run):
        slow = {part: of_part | {"seconds": 90.0} for part, of_part in smoke_run.figures.items()}
        card = render_card(slow)
        assert f"took {1.5 * len(PARTS):.0f} minutes" in card
        assert card.count("| 90 |") == len(PARTS)

    def test_sets_right_and_wrong_conditions_side_by_side(self):
        figures = {
            "palette": 0.9,
            "palette_with_other_history": 0.3,
            "harmony": 0.8,
            "harmony_with_other_outfit": 0.4,
            "colour": 0.5,
            "unreadable": 0.01,
        }
        shares = [row.split("|")[2].strip() for row in conditions_table(figures).splitlines()[2:]]
        assert shares == ["90.0%", "30.0%", "80.0%", "40.0%", "50.0%", "1.0%"]


class TestContactSheet:
    def test_has_two_rows_for_every_category(self, smoke_assets):
        data_set = load_data_set(smoke_assets / "catalogue")
        of_category: dict[int, int] = dict.fromkeys(data_set.categories, 0)
        for blank in data_set.blanks_of("valid", seed=0):
            of_category[blank.outfit.category_ids[blank.slot]] += 1
        rows = sum(min(2, count) for count in of_category.values())
        sheet = draw_contact_sheet(build_tiny_bundle(), data_set)
        assert height(sheet) == HEAD_PX + ROW_PX * rows

    def test_goes_with_the_models_as_a_png(self, smoke_assets):
        picture = Image.open(smoke_assets / "samples.png")
        assert picture.format == "PNG"
        assert len(picture.getcolors(maxcolors=2**24)) > 100

    def test_is_the_same_for_the_same_seed_and_another_for_another(self, smoke_assets):
        data_set, bundle = load_data_set(smoke_assets / "catalogue"), build_tiny_bundle()
        one, again, other = (draw_contact_sheet(bundle, data_set, rows_per_category=1, seed=seed) for seed in (1, 1, 2))
        assert one == again != other


def height(png: bytes) -> int:
    return Image.open(io.BytesIO(png)).height
