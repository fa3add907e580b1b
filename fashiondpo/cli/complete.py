"""`fashiondpo complete`: paint outfits and look at them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fashiondpo.cli.options import BundlePlace, Candidates, DataPlace, Device, RunFolder, Seed, opened_places
from fashiondpo.cli.services import ServiceKey
from fashiondpo.cli.show import progress_bars, say
from fashiondpo.contracts import NUM_CANDIDATES, AdapterRef, CandidateRequest, CandidateSet, Outfit, candidate_seed
from fashiondpo.errors import NotFound
from fashiondpo.messages import GenerateRequest, OutfitRequest, Slot
from fashiondpo.outfits.images import decode_image

if TYPE_CHECKING:
    from fashiondpo.clients.generator import GeneratorClient
    from fashiondpo.outfits.model import Image
    from fashiondpo.workspace import Workspace

Seeds = dict[int, tuple[int, ...]]
Paint = Callable[[Outfit, Seeds, str], list[CandidateSet]]
"""Paints all empty slots of an outfit, given seeds by slot and the start of the sets' names."""


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
    adapter: Annotated[int | None, typer.Option(help="Adapter version; the champion unless given.")] = None,
    seed: Seed = None,
    device: Device = "cpu",
    url: Annotated[
        str | None, typer.Option(help="Of a generator service that paints; it must know the same data set.")
    ] = None,
    key: ServiceKey = None,
) -> None:
    """Complete held-out outfits and draw them: one picture with everything, one PNG per candidate in the run's folder."""
    workspace = opened_places(run, data_place, bundle, device)
    count, number = candidates or NUM_CANDIDATES, seed or 0
    paint = _here(workspace, split, adapter) if url is None else _by_service(workspace, url, key, adapter)
    with progress_bars() as bars:
        tell = bars("complete")
        completed = []
        chosen = _outfits(workspace, split, outfits, task, number)
        for done, outfit in enumerate(chosen):
            completed.append(paint(outfit, _seeds(outfit, count, number), f"complete-{split}-{outfit.outfit_id}"))
            tell(done + 1, len(chosen), {})
    path = run / f"completed-{task}.png"
    path.write_bytes(_drawn(workspace, split, completed))
    say(f"Painted {len(completed)} outfits, {count} times each: {path}")


def _outfits(workspace: Workspace, split: str, count: int, task: str, seed: int) -> list[Outfit]:
    if task == "all":
        return workspace.data_set.gor_tasks(split, count, seed=seed)
    return [blank.outfit for blank in workspace.data_set.blanks_of(split, count, seed=seed)]


def _seeds(outfit: Outfit, candidates: int, seed: int) -> Seeds:
    if not outfit.empty_slots:
        raise NotFound(f"outfit {outfit.outfit_id} has no empty slot")
    return {
        slot: tuple(candidate_seed(seed, 0, outfit.outfit_id, slot, k) for k in range(candidates))
        for slot in outfit.empty_slots
    }


def _here(workspace: Workspace, split: str, adapter: int | None) -> Paint:
    """Paints in this process."""
    from fashiondpo.offline import load_weights  # loads torch: not for --help

    ref = workspace.champion() if adapter is None else AdapterRef()
    if adapter:
        ref = workspace.adapters.manifest(adapter).ref
    generator = workspace.generator(split, is_recorded=False)
    generator.activate(ref, load_weights(workspace.adapters, ref))

    def paint(outfit: Outfit, seeds: Seeds, prefix: str) -> list[CandidateSet]:
        if len(seeds) > 1:
            return generator.complete_outfit(outfit, seeds, prefix=prefix)
        ((slot, of_slot),) = seeds.items()
        request = CandidateRequest(set_id=f"{prefix}-{slot}", outfit=outfit, slot=slot, seeds=of_slot)
        return list(generator.generate([request]))

    return paint


def _by_service(workspace: Workspace, url: str, key: str | None, adapter: int | None) -> Paint:
    """Has a generator service paint, and keeps the pictures in the run's folder."""
    from fashiondpo.clients.generator import GeneratorClient  # loads httpx: not for --help

    client = GeneratorClient(url, key)

    def paint(outfit: Outfit, seeds: Seeds, prefix: str) -> list[CandidateSet]:
        candidate_sets = painted_by_service(client, outfit, seeds, prefix, adapter_version=adapter)
        for candidate_set in candidate_sets:
            for candidate in candidate_set.candidates:
                workspace.artifacts.put(client.image(candidate.image), "png")
        return candidate_sets

    return paint


def painted_by_service(
    client: GeneratorClient, outfit: Outfit, seeds: Seeds, name: str, *, adapter_version: int | None = None
) -> list[CandidateSet]:
    """A candidate set per empty slot.

    Args:
        client: of the generator.
        outfit: of catalogue items.
        seeds: by empty slot.
        name: of the set; with several empty slots, start of the names.
        adapter_version: the champion unless given.
    """
    slots = zip(outfit.category_ids, outfit.item_ids, strict=True)
    asked = OutfitRequest(
        user_id=outfit.user_id,
        slots=tuple(Slot(category_id=category_id, item_id=item_id) for category_id, item_id in slots),
        outfit_id=outfit.outfit_id,
        set_id=name,
        seeds=tuple(seeds[slot] for slot in outfit.empty_slots),
    )
    count = len(seeds[outfit.empty_slots[0]])
    request = GenerateRequest(outfits=(asked,), num_candidates=count, adapter_version=adapter_version)
    return list(client.generate(request).candidate_sets)


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
