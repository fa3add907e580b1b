"""`fashiondpo complete`: outfits painted to be looked at."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from fashiondpo.diffusion.model import load_bundle
from tests.smoke_assets import SHORT_SAMPLER

LITTLE = ("--outfits", 2, "--candidates", 2)
ROW_PX, HEAD_PX, SLOTS = 70, 28, 4


@pytest.fixture(scope="module")
def quick(smoke_assets, tmp_path_factory):
    """The smoke bundle, but with a few steps as its default."""
    folder = tmp_path_factory.mktemp("bundle")
    for path in (smoke_assets / "bundle").iterdir():
        if path.name != "difashion.json":
            (folder / path.name).symlink_to(path)
    own = json.loads((smoke_assets / "bundle" / "difashion.json").read_text())
    (folder / "difashion.json").write_text(json.dumps(own | {"sampler": SHORT_SAMPLER.model_dump()}))
    assert load_bundle(folder).sampler == SHORT_SAMPLER
    return folder


class TestComplete:
    @pytest.mark.parametrize(("task", "rows"), [("one", 2), ("all", 2 * SLOTS)])
    def test_draws_a_row_for_every_empty_slot(self, fashiondpo, quick, tmp_path, task, rows):
        said = fashiondpo.well("complete", "--run", tmp_path / "run", "--bundle", quick, "--task", task, *LITTLE)
        picture = tmp_path / "run" / f"completed-{task}.png"
        assert f"Painted 2 outfits, 2 times each: {picture}" in said
        assert Image.open(picture).height == HEAD_PX + ROW_PX * rows

    def test_paints_the_same_for_the_same_seed_and_other_outfits_for_another(self, fashiondpo, quick, tmp_path):
        drawn = []
        for name, seed in (("one", 1), ("again", 1), ("other", 2)):
            run = tmp_path / name
            fashiondpo.well("complete", "--run", run, "--bundle", quick, "--seed", seed, *LITTLE)
            drawn.append((run / "completed-one.png").read_bytes())
        assert drawn[0] == drawn[1] != drawn[2]

    def test_paints_with_the_champion_unless_told_otherwise(self, fashiondpo, whole, tmp_path):
        # a run remembers its bundle, so these paint with as many steps as that has
        run = whole.copied(tmp_path / "run")
        fashiondpo.well("adapters", "activate", 1, "--force", "--run", run.folder)
        drawn = []
        for options in ((), ("--adapter", 1), ("--adapter", 0)):
            fashiondpo.well("complete", "--run", run.folder, "--outfits", 1, "--candidates", 1, *options)
            drawn.append((run.folder / "completed-one.png").read_bytes())
        assert drawn[0] == drawn[1] != drawn[2]

    def test_names_the_versions_that_there_are(self, fashiondpo, whole):
        finished = fashiondpo("complete", "--run", whole.folder, "--adapter", 9)
        assert finished.code == 2
        assert "no adapter version 9; published: 1" in finished.err
