"""Train the whole mini family from Fashion-MNIST: `fashiondpo pretrain --preset mini`.

Parts are trained one after the other into a folder beside the target; a run that was stopped goes on with the first
part that is not finished, and the target is replaced only when everything is there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Generator

from fashiondpo.contracts import content_digest
from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.model import DiFashion, load_bundle, save_bundle
from fashiondpo.diffusion.pretrain import PretrainSettings, encode_outfits, pretrain
from fashiondpo.errors import InvalidInput
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.held_out import HeldOutJudge, HeldOutNet
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.outfits.fashion_mnist import Silhouettes, read_silhouettes
from fashiondpo.outfits.mini import (
    CATEGORIES,
    PRETRAIN_GROUP,
    SHIPPED_GROUPS,
    MiniCatalogue,
    UserGroup,
    build_world,
    save_mini,
    world_data_set,
)
from fashiondpo.outfits.model import Blank, DataSet, History
from fashiondpo.pretraining.autoencoder import AutoencoderSettings, reconstruction_psnr, train_autoencoder
from fashiondpo.pretraining.bundle import build_mini_bundle, mini_tokenizer
from fashiondpo.pretraining.card import write_card
from fashiondpo.pretraining.clip import ClipSettings, clip_report, train_clip
from fashiondpo.pretraining.conditioning import measure_conditioning
from fashiondpo.pretraining.contact_sheet import draw_contact_sheet
from fashiondpo.pretraining.corruptions import damage_latents
from fashiondpo.pretraining.garments import sample_garments
from fashiondpo.pretraining.held_out import (
    CriticSettings,
    HeldOutSettings,
    held_out_accuracy,
    train_critic,
    train_held_out,
)
from fashiondpo.pretraining.paintings import decoded, encoded, paint
from fashiondpo.pretraining.quality import QualityPictures, QualitySettings, auc, quality_report, train_quality
from fashiondpo.pretraining.vbpr import VBPRSettings, outfit_table, rank, train_vbpr
from fashiondpo.telemetry import Progress, no_progress

Figures = dict[str, float]


@dataclass(frozen=True)
class MiniRecipe:
    """Everything that decides the mini models; the defaults made the shipped ones."""

    seed: int = 7
    shipped: tuple[UserGroup, ...] = SHIPPED_GROUPS
    more_users: UserGroup = PRETRAIN_GROUP
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    generator: PretrainSettings = field(
        default_factory=lambda: PretrainSettings(
            steps=2000,
            outfits_per_step=32,
            learning_rate=2e-3,
            weight_decay=1e-3,
            ema_decay=0.995,
            # the published rates leave both conditions on in three rows of ten: too few for so short a training
            history_dropout=0.1,
            mutual_dropout=0.1,
            both_dropout=0.1,
            category_dropout=0.1,
            # the colour of a garment is decided at the noisiest steps, to which plain min-SNR gives no weight here
            snr_floor=1.0,
            is_text_trained=True,
        )
    )
    clip: ClipSettings = field(default_factory=ClipSettings)
    vbpr: VBPRSettings = field(default_factory=VBPRSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)
    held_out: HeldOutSettings = field(default_factory=HeldOutSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)
    quality_pictures: int = 3000
    painted_pictures: int = 1400
    probe_outfits: int = 150
    sheet_rows: int = 2


SMOKE_RECIPE = MiniRecipe(
    shipped=tuple(replace(group, users=12, outfits_per_user=3) for group in SHIPPED_GROUPS),
    more_users=replace(PRETRAIN_GROUP, users=8, outfits_per_user=3),
    autoencoder=AutoencoderSettings(steps=3, batch_size=8),
    generator=PretrainSettings(steps=3, outfits_per_step=4, learning_rate=1e-3, is_text_trained=True),
    clip=ClipSettings(steps=3, batch_size=16),
    vbpr=VBPRSettings(steps=5, batch_size=16, evaluate_every=5),
    quality=QualitySettings(steps=3, batch_size=16),
    held_out=HeldOutSettings(steps=3, batch_size=16),
    critic=CriticSettings(steps=3, batch_size=16),
    quality_pictures=48,
    painted_pictures=6,
    probe_outfits=2,
    sheet_rows=1,
)
"""Every part, hardly trained: shows in seconds that the recipe runs."""


def train_mini(
    fashion_mnist: Path,
    target: Path,
    recipe: MiniRecipe | None = None,
    *,
    progress: Callable[[str], Progress] = lambda _part: no_progress,
) -> Mapping[str, Figures]:
    """Train every part of the mini family and write it, with its card, to `target`.

    Args:
        fashion_mnist: folder of the four idx files.
        target: replaced when all parts are done.
        recipe: sizes and schedules.
        progress: gives a progress callback for each part.

    Returns:
        Measured figures and training seconds by part.

    Raises:
        DataFileError: if the idx files are missing or damaged.
        InvalidInput: if the target holds something other than mini models.
    """
    if target.exists() and any(target.iterdir()) and not (target / "figures.json").exists():
        raise InvalidInput(
            f"{target} holds something other than mini models, which would be lost: choose another folder"
        )
    run = _MiniRun(fashion_mnist, target, recipe or MiniRecipe(), progress)
    for name, train in run.parts().items():
        run.do(name, train)
    run.finish()
    return run.figures


class _MiniRun:
    """One run: the unfinished folder and what is already in it."""

    def __init__(
        self, fashion_mnist: Path, target: Path, recipe: MiniRecipe, progress: Callable[[str], Progress]
    ) -> None:
        self.target, self.folder = target, target.with_name(target.name + ".unfinished")
        self.recipe, self.progress = recipe, progress
        self.silhouettes: dict[str, Silhouettes] = {
            "train": read_silhouettes(fashion_mnist, "train"),
            "test": read_silhouettes(fashion_mnist, "test"),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        self.figures: dict[str, Figures] = self._finished_parts()

    def parts(self) -> dict[str, Callable[[Progress], Figures]]:
        """Every part, in the order in which they need each other."""
        return {
            "catalogue": self._catalogue,
            "autoencoder": self._autoencoder,
            "clip": self._clip,
            "compatibility": self._compatibility,
            "held_out": self._held_out,
            "generator": self._generator,
            "quality": self._quality,
            "critic": self._critic,
            "conditions": self._conditions,
        }

    def do(self, name: str, train: Callable[[Progress], Figures]) -> None:
        """Train a part unless an earlier run did."""
        if name in self.figures:
            return
        started = time.perf_counter()
        figures = train(self.progress(name))
        self.figures[name] = figures | {"seconds": round(time.perf_counter() - started, 1)}
        self._write_figures()

    def finish(self) -> None:
        """Write card and picture, and put the folder where the old one was."""
        sheet = draw_contact_sheet(self._bundle(), self._shipped(), rows_per_category=self.recipe.sheet_rows)
        (self.folder / "samples.png").write_bytes(sheet)
        write_card(self.folder, self.figures)
        shutil.rmtree(self.folder / "autoencoder", ignore_errors=True)  # the bundle has it
        if self.target.exists():
            shutil.rmtree(self.target)
        self.folder.rename(self.target)

    def _fingerprints(self) -> dict[str, str]:
        """What each part depends on: its own settings, and those of the parts before it."""
        recipe = self.recipe
        settings = {
            "catalogue": (recipe.seed, recipe.shipped),
            "autoencoder": recipe.autoencoder,
            "clip": recipe.clip,
            "compatibility": (recipe.vbpr, recipe.more_users),
            "held_out": recipe.held_out,
            "generator": recipe.generator,
            "quality": (recipe.quality, recipe.quality_pictures, recipe.painted_pictures),
            "critic": (recipe.critic, recipe.painted_pictures),
            "conditions": recipe.probe_outfits,
        }
        prints, so_far = {}, ""
        for part in self.parts():
            so_far = content_digest(f"{so_far}{part}{settings[part]!r}".encode())
            prints[part] = so_far
        return prints

    def _finished_parts(self) -> dict[str, Figures]:
        """Figures of the parts that an earlier run trained with the same settings."""
        path = self.folder / "figures.json"
        state = json.loads(path.read_text()) if path.exists() else {}
        return {
            part: state[part]["figures"]
            for part, fingerprint in self._fingerprints().items()
            if state.get(part, {}).get("fingerprint") == fingerprint
        }

    def _write_figures(self) -> None:
        prints = self._fingerprints()
        state = {part: {"figures": of_part, "fingerprint": prints[part]} for part, of_part in self.figures.items()}
        unfinished = self.folder / "figures.json.unfinished"
        unfinished.write_text(json.dumps(state, indent=2) + "\n")
        unfinished.replace(self.folder / "figures.json")  # a run that is killed here must be able to go on

    def _shipped(self) -> DataSet:
        return world_data_set(build_world(self.silhouettes, self.recipe.shipped, seed=self.recipe.seed))

    def _whole(self) -> DataSet:
        groups = (*self.recipe.shipped, self.recipe.more_users)
        return world_data_set(build_world(self.silhouettes, groups, seed=self.recipe.seed))

    def _bundle(self) -> DiFashion:
        return load_bundle(self.folder / "bundle")

    def _catalogue(self, _progress: Progress) -> Figures:
        world = build_world(self.silhouettes, self.recipe.shipped, seed=self.recipe.seed)
        save_mini(world, self.folder / "catalogue")
        return {
            "items": len(world.item_category),
            "outfits": len(world.outfit_user),
            "users": len(world.user_palette),
            "silhouettes": len(world.silhouettes),
        }

    def _autoencoder(self, progress: Progress) -> Figures:
        vae = train_autoencoder(
            self.silhouettes["train"], self.recipe.autoencoder, seed=self.recipe.seed, progress=progress
        )
        vae.save_pretrained(self.folder / "autoencoder")
        unseen = sample_garments(self.silhouettes["test"], 1000, np.random.default_rng(self.recipe.seed))
        return {
            "psnr_db": reconstruction_psnr(vae, unseen.images),
            "parameters": float(sum(p.numel() for p in vae.parameters())),
        }

    def _generator(self, progress: Progress) -> Figures:
        vae = AutoencoderKL.from_pretrained(self.folder / "autoencoder")
        bundle = build_mini_bundle(vae, mini_tokenizer(CATEGORIES), CATEGORIES, seed=self.recipe.seed)
        data_set = self._whole()
        splits = (self.recipe.more_users.split, "train")
        outfits = [outfit for split in splits for outfit in data_set.split(split)]
        history = History.joined([data_set.history(split) for split in splits])
        encoder = ConditionEncoder(bundle, data_set.catalogue, data_set.categories)
        encoded = encode_outfits(encoder, outfits, history)
        pretrain(bundle, encoded, self.recipe.generator, seed=self.recipe.seed, progress=progress)
        save_bundle(bundle, self.folder / "bundle", dtype=torch.float16)
        return {
            "parameters": float(sum(p.numel() for p in bundle.unet.parameters())),
            "outfits": float(len(outfits)),
        }

    def _clip(self, progress: Progress) -> Figures:
        features = train_clip(
            self.silhouettes["train"],
            mini_tokenizer(CATEGORIES),
            self.recipe.clip,
            seed=self.recipe.seed + 1,
            progress=progress,
        )
        features.save(self.folder / "judges" / "clip")
        unseen = sample_garments(self.silhouettes["test"], 2000, np.random.default_rng(self.recipe.seed))
        return asdict(clip_report(features, unseen))

    def _compatibility(self, progress: Progress) -> Figures:
        features = OpenClipFeatures.load(self.folder / "judges" / "clip")
        data_set = self._whole()
        items = CatalogueFeatures(features, data_set.catalogue)
        vbpr, _ = train_vbpr(items, data_set, self.recipe.vbpr, seed=self.recipe.seed + 2, progress=progress)
        vbpr.save(self.folder / "judges" / "vbpr")
        return asdict(rank(vbpr, outfit_table(items, data_set.split("test"))))

    def _quality(self, progress: Progress) -> Figures:
        train = self._quality_pictures("train", self.recipe.quality_pictures, self.recipe.seed + 3, progress)
        judge = train_quality(train, self.recipe.quality, seed=self.recipe.seed + 3, progress=progress)
        judge.save(self.folder / "judges" / "quality")
        unseen_count = max(64, self.recipe.quality_pictures // 4)
        unseen = self._quality_pictures("test", unseen_count, self.recipe.seed + 4, progress)
        return asdict(quality_report(judge, unseen))

    def _quality_pictures(self, source: str, count: int, seed: int, progress: Progress) -> QualityPictures:
        """Raw and decoded garments, damaged latents with a third as many hastily painted, and what is painted with care."""
        bundle, generator = self._bundle(), Generator().manual_seed(seed)
        raw = sample_garments(self.silhouettes[source], count, np.random.default_rng(seed)).images
        latents, strength = encoded(bundle, raw), torch.rand(count, generator=generator)
        damaged = decoded(bundle, damage_latents(latents, strength, generator))
        data_set, split = self._shipped(), "train" if source == "train" else "valid"
        hasty, hasty_damage = self._hastily_painted(bundle, data_set, split, count // 3, seed)
        blanks = self._painted_blanks(data_set, split, "quality")
        return QualityPictures(
            raw=raw,
            decoded=decoded(bundle, latents),
            damaged=np.concatenate([damaged, hasty]),
            damage=np.concatenate([strength.double().numpy(), hasty_damage]),
            painted=paint(bundle, data_set, split, blanks, seed=seed, progress=progress),
        )

    def _painted_blanks(self, data_set: DataSet, split: str, part: Literal["quality", "critic"]) -> list[Blank]:
        """What is painted for judge and critic: of the training split other outfits for each."""
        wanted = self.recipe.painted_pictures
        if split != "train":
            return data_set.blanks_of(split, min(wanted, len(data_set.split(split))), seed=self.recipe.seed)
        blanks = data_set.blanks_of(split, min(2 * wanted, len(data_set.split(split))), seed=self.recipe.seed)
        half = len(blanks) // 2
        return blanks[:half] if part == "quality" else blanks[half:]

    def _hastily_painted(
        self, bundle: DiFashion, data_set: DataSet, split: str, count: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pictures of runs with too few steps: 2 steps count as 0.9 damaged, 3 as 0.75, 4 as 0.6."""
        blanks = data_set.blanks_of(split, min(count // 3, len(data_set.split(split))), seed=seed)
        images, damage = [], []
        for steps, label in ((2, 0.9), (3, 0.75), (4, 0.6)):
            images.append(paint(bundle, data_set, split, blanks, seed=seed, steps=steps))
            damage += [label] * len(blanks)
        return np.concatenate(images), np.array(damage)

    def _critic(self, progress: Progress) -> Figures:
        bundle, data_set, folder = self._bundle(), self._shipped(), self.folder / "judges" / "held_out"
        catalogue, seed = data_set.catalogue, self.recipe.seed + 2000
        assert isinstance(catalogue, MiniCatalogue)

        def garments_and_painted(split: str, noise_seed: int) -> tuple[np.ndarray, np.ndarray]:
            blanks = self._painted_blanks(data_set, split, "critic")
            there = catalogue.images([blank.true_item_id for blank in blanks])
            painted = paint(bundle, data_set, split, blanks, seed=noise_seed, progress=progress)
            return decoded(bundle, encoded(bundle, there)), painted

        network = train_critic(*garments_and_painted("train", seed), self.recipe.critic, seed=seed, progress=progress)
        judge = HeldOutJudge(HeldOutNet.load(folder), catalogue, critic=network)
        judge.save(folder)
        garments, painted = garments_and_painted("valid", seed + 1)
        of_garments, of_painted = judge.realism(list(garments)), judge.realism(list(painted))
        return {
            "auc": auc(of_garments, of_painted),
            "taken_for_garments": float((of_garments > 0).double().mean()),
            "painted_taken_for_garments": float((of_painted > 0).double().mean()),
        }

    def _held_out(self, progress: Progress) -> Figures:
        network = train_held_out(
            self.silhouettes["train"], self.recipe.held_out, seed=self.recipe.seed + 1000, progress=progress
        )
        catalogue = self._shipped().catalogue
        assert isinstance(catalogue, MiniCatalogue)
        judge = HeldOutJudge(network, catalogue)
        judge.save(self.folder / "judges" / "held_out")
        unseen = sample_garments(self.silhouettes["test"], 2000, np.random.default_rng(self.recipe.seed))
        return {"category": held_out_accuracy(judge, unseen)}

    def _conditions(self, progress: Progress) -> Figures:
        return measure_conditioning(
            self._bundle(), self._shipped(), outfits=self.recipe.probe_outfits, seed=self.recipe.seed, progress=progress
        )
