"""One tiny generation before the first real one: what is slow the first time is slow for nobody who waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from fashiondpo.contracts import AdapterRef, Outfit, SamplerSettings
from fashiondpo.diffusion.engine import Engine, FinishedSet, OutfitTask, PaintRequest
from fashiondpo.errors import FashionDPOError
from fashiondpo.outfits.model import Catalogue, Category, Image

_STEPS = 2


def warm_up(
    engine: Engine,
    catalogue: Catalogue,
    categories: Mapping[int, Category],
    sampler: SamplerSettings,
    *,
    timeout_s: float = 600.0,
) -> None:
    """Paint one candidate beside the catalogue's first item, in few steps, and forget it.

    Raises:
        FashionDPOError: if the engine cannot.
        TimeoutError: if it takes too long.
    """
    item = catalogue.item(catalogue.item_ids()[0])
    outfit = Outfit(
        outfit_id=0, user_id=0, category_ids=(next(iter(categories)), item.category_id), item_ids=(None, item.item_id)
    )
    settings = sampler.model_copy(update={"num_inference_steps": _STEPS, "ddim_eta": sampler.ddim_eta or 1.0})
    task = OutfitTask(outfit, ("warm-up",), ((0,),), history={outfit.category_ids[0]: (item.item_id,)})
    observer = _UntilEnded()
    engine.submit(PaintRequest("warm-up", (task,), settings), observer)
    observer.over.result(timeout_s)


class _UntilEnded:
    """Waits for the end and nothing else."""

    def __init__(self) -> None:
        self.over: Future[None] = Future()

    def started(self, adapter: AdapterRef) -> None:
        pass

    def advanced(self, set_id: str, step: int, num_steps: int, previews: Sequence[Image]) -> None:
        pass

    def finished_set(self, result: FinishedSet) -> None:
        pass

    def ended(self, error: FashionDPOError | None) -> None:
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)
