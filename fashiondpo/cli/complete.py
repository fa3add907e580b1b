"""`fashiondpo complete`: paint outfits and look at them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fashiondpo.cli.options import BundlePlace, Candidates, DataPlace, Device, RunFolder, Seed, opened_places
from fashiondpo.cli.show import progress_bars, say
from fashiondpo.contracts import NUM_CANDIDATES, AdapterRef, CandidateSet, Outfit, candidate_seed
from fashiondpo.errors import NotFound
from fashiondpo.outfits.images import decode_image

if TYPE_CHECKING:
    from fashiondpo.outfits.model import Image
    from fashiondpo.workspace import Workspace


def complete(
    run: RunFolder = Path("runs/default"),
    data_place: DataPlace = "mini",
    bundle: BundlePlace = "mini",
    split: Annotated[str, typer.Option(help="Whose outfits: train, valid or test.")] = "test",
    outfits: Annotated[int, typer.Option(min=1, help="How many.")] = 6,
    task: Annotated[
        Literal["one", "all"], typer.Option(help="one: a slot of each outfit (PFITB). all: whole outfits (GOR).")
    ] = "one",
    candidates: Candidates = None,
    adapter: Annotated[int | None, typer.Option(help="Adapter version; the run's champion unless given.")] = None,
    seed: Seed = None,
    device: Device = "cpu",
) -> None:
    """Complete held-out outfits and draw them: one picture with everything, one PNG per candidate in the run's folder."""
    workspace = opened_places(run, data_place, bundle, device)
    count, number = candidates or NUM_CANDIDATES, seed or 0
    with progress_bars() as bars:
        tell = bars("complete")
        completed = []
        chosen = _outfits(workspace, split, outfits, task, number)
        for done, outfit in enumerate(chosen):
            completed.append(_completed(workspace, split, outfit, count, number, adapter))
            tell(done + 1, len(chosen), {})
    path = run / f"completed-{task}.png"
    path.write_bytes(_drawn(workspace, split, completed))
    say(f"Painted {len(completed)} outfits, {count} times each: {path}")


def _outfits(workspace: Workspace, split: str, count: int, task: str, seed: int) -> list[Outfit]:
    if task == "all":
        return workspace.data_set.gor_tasks(split, count, seed=seed)
    return [blank.outfit for blank in workspace.data_set.blanks_of(split, count, seed=seed)]


def _completed(
    workspace: Workspace, split: str, outfit: Outfit, candidates: int, seed: int, adapter: int | None
) -> list[CandidateSet]:
    """A candidate set per empty slot."""
    from fashiondpo.contracts import CandidateRequest
    from fashiondpo.offline import load_weights  # loads torch: not for --help

    ref = workspace.champion() if adapter is None else AdapterRef()
    if adapter:
        ref = workspace.adapters.manifest(adapter).ref
    generator = workspace.generator(split, is_recorded=False)
    generator.activate(ref, load_weights(workspace.adapters, ref))
    seeds = {
        slot: tuple(candidate_seed(seed, 0, outfit.outfit_id, slot, k) for k in range(candidates))
        for slot in outfit.empty_slots
    }
    prefix = f"complete-{split}-{outfit.outfit_id}"
    if len(seeds) > 1:
        return generator.complete_outfit(outfit, seeds, prefix=prefix)
    if not seeds:
        raise NotFound(f"outfit {outfit.outfit_id} has no empty slot")
    ((slot, of_slot),) = seeds.items()
    return list(
        generator.generate([CandidateRequest(set_id=f"{prefix}-{slot}", outfit=outfit, slot=slot, seeds=of_slot)])
    )


def _drawn(workspace: Workspace, split: str, completed: list[list[CandidateSet]]) -> bytes:
    """For each outfit a row per painted slot: given items (empty slots stay white), history, candidates."""
    from fashiondpo.outfits.images import white_image
    from fashiondpo.pretraining.contact_sheet import draw_sheet

    data_set = workspace.data_set
    white = white_image(data_set.catalogue.image_size)
    labels, rows = [], []
    for candidate_sets in completed:
        for candidate_set in candidate_sets:
            outfit, category_id = candidate_set.outfit, candidate_set.outfit.category_ids[candidate_set.slot]
            own = data_set.history(split).of(outfit.user_id, category_id)[:2]
            history: list[Image] = [data_set.catalogue.image(item) for item in own]
            given = [white if item is None else data_set.catalogue.image(item) for item in outfit.item_ids]
            painted = [decode_image(workspace.artifacts.get(c.image)) for c in candidate_set.candidates]
            groups = [history + [white] * (2 - len(history)), painted]
            rows.append([given, *groups] if outfit.given_item_ids else groups)
            labels.append(data_set.categories[category_id].name)
    heads = ("outfit", "history", "candidates")
    return draw_sheet(labels, heads[-len(rows[0]) :], rows)
