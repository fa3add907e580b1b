"""The services that a round needs: the generator and the judges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Self

from fashiondpo.clients.generator import GeneratorClient
from fashiondpo.clients.judge import JudgeClient
from fashiondpo.clients.retries import Retries
from fashiondpo.pipeline import SetJudge
from fashiondpo.remote import RemoteJudge
from services.trainer.settings import TrainerSettings

SHORT_RETRIES = Retries(attempts=4, longest_wait_s=2.0, budget_s=8.0)
"""A service that is away for longer is waited for between slices, where the worker can do something else."""


@dataclass(frozen=True)
class Peers:
    """Their addresses; nothing is opened before it is used."""

    generator_url: str
    judge_urls: tuple[str, ...]
    key: str | None = None
    timeout_s: float = 60.0

    @classmethod
    def of(cls, settings: TrainerSettings) -> Self:
        """Those that the settings name."""
        return cls(settings.generator_url, settings.judge_urls, settings.peer_key(), settings.service_timeout_s)

    @contextmanager
    def opened(self) -> Iterator[tuple[GeneratorClient, tuple[SetJudge, ...]]]:
        """Clients of the generator and of every judge; closed at the end."""
        with ExitStack() as stack:
            generator = GeneratorClient(self.generator_url, self.key, timeout_s=self.timeout_s, retries=SHORT_RETRIES)
            judges = [
                JudgeClient(url, self.key, timeout_s=self.timeout_s, retries=SHORT_RETRIES) for url in self.judge_urls
            ]
            for client in (generator, *judges):
                stack.enter_context(client)
            yield generator, tuple(RemoteJudge(judge) for judge in judges)
