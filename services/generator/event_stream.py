"""The progress of a generation as server-sent events: progress, set, and at the end done or error."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import numpy as np
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from PIL import Image as Pillow
from pydantic import BaseModel

from fashiondpo.errors import FashionDPOError
from fashiondpo.messages import Generation, GenerationProgress, SetProgress
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.model import Image
from fashiondpo.serving.problems import problem_of
from services.generator.generation import ENDED, LiveGeneration, News


class Watch:
    """Waits, in the event loop, for news of a generation, or only for its end; to be used as a context."""

    def __init__(self, generation: LiveGeneration, *, to_steps: bool = True) -> None:
        self._generation, self._to_steps = generation, to_steps
        self._happened = asyncio.Event()
        self._end: Callable[[], None] = lambda: None

    def __enter__(self) -> Watch:
        loop = asyncio.get_running_loop()

        def tell() -> None:
            # a loop that is closing has no more readers
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._happened.set)

        self._end = self._generation.subscribe(tell, to_steps=self._to_steps)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    async def news(self, mark: int, *, timeout_s: float) -> News | None:
        """What happened since the mark, as soon as something did; None if nothing did in time."""
        while True:
            self._happened.clear()
            news = self._generation.news(mark)
            if news.mark > mark or news.is_ended:
                return news
            try:
                await asyncio.wait_for(self._happened.wait(), timeout_s)
            except TimeoutError:
                return None

    async def ended(self) -> None:
        """Wait until nothing more will happen."""
        while not self._generation.is_ended:
            self._happened.clear()
            if not self._generation.is_ended:
                await self._happened.wait()


@dataclass(frozen=True)
class EventStream:
    """Tells one reader what happens to a generation; a slow reader misses steps, never a set or the end.

    Attributes:
        generation: whose events.
        preview_px: longer side of the small pictures.
        keepalive_s: after so much silence a comment shows that the connection lives.
    """

    generation: LiveGeneration
    preview_px: int
    keepalive_s: float

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with Watch(self.generation) as watch:
            news = self.generation.news(0)
            yield _event("progress", await self._progress(news))
            while True:
                for candidate_set in news.finished:
                    yield _event("set", candidate_set)
                if news.is_ended:
                    yield _last(self.generation.view())
                    return
                while (later := await watch.news(news.mark, timeout_s=self.keepalive_s)) is None:
                    yield KEEPALIVE_COMMENT
                news = later
                if news.steps or not (news.finished or news.is_ended):
                    yield _event("progress", await self._progress(news))

    async def _progress(self, news: News) -> GenerationProgress:
        if any(step.previews for step in news.steps):
            return await asyncio.to_thread(self._told, news)  # pictures are made smaller and encoded
        return self._told(news)

    def _told(self, news: News) -> GenerationProgress:
        return GenerationProgress(
            generation_id=self.generation.plan.generation_id,
            status=news.status,
            done=news.done,
            total=news.total,
            sets=tuple(
                SetProgress(
                    set_id=step.set_id,
                    step=step.step,
                    num_steps=step.num_steps,
                    previews=tuple(preview(image, self.preview_px) for image in step.previews),
                )
                for step in news.steps
            ),
        )


@dataclass(frozen=True)
class RecordedEvents:
    """Tells of a generation that another process paints, as far as its records say, until it has ended.

    Attributes:
        found: what was known of it last.
        find: looks again.
        keepalive_s: as for `EventStream`.
    """

    found: Generation
    find: Callable[[str], LiveGeneration | Generation]
    keepalive_s: float
    look_again_s: float = 1.0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen, silent_s = self.found, 0.0
        yield _event("progress", _recorded_progress(seen))
        while seen.status not in ENDED:
            await asyncio.sleep(self.look_again_s)
            try:
                found = await asyncio.to_thread(self.find, seen.generation_id)
            except FashionDPOError as error:
                yield _event("error", problem_of(error))
                return
            looked = found.view() if isinstance(found, LiveGeneration) else found
            silent_s += self.look_again_s
            if looked != seen:
                seen, silent_s = looked, 0.0
                yield _event("progress", _recorded_progress(seen))
            elif silent_s >= self.keepalive_s:
                silent_s = 0.0
                yield KEEPALIVE_COMMENT
        for candidate_set in seen.candidate_sets:
            yield _event("set", candidate_set)
        yield _last(seen)


def _recorded_progress(seen: Generation) -> GenerationProgress:
    return GenerationProgress(generation_id=seen.generation_id, status=seen.status, done=seen.done, total=seen.total)


def _last(seen: Generation) -> bytes:
    return _event("done", seen) if seen.problem is None else _event("error", seen.problem)


def preview(image: Image, size_px: int) -> str:
    """A small version of the picture as a PNG in base64; never larger than the picture."""
    picture = Pillow.fromarray(image)
    picture.thumbnail((size_px, size_px), Pillow.Resampling.BILINEAR)
    return base64.b64encode(encode_png(np.asarray(picture, dtype=np.uint8))).decode()


def _event(name: str, data: BaseModel) -> bytes:
    return format_sse_event(event=name, data_str=data.model_dump_json())
