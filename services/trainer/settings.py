"""Environment of the trainer's API and worker; every variable starts with TRAINER_."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fashiondpo.errors import InvalidInput
from fashiondpo.model_cache.places import DEFAULT_CACHE, ModelPlaces
from fashiondpo.run_settings import MINI_ASSETS, TrainRequest
from fashiondpo.serving.settings import ServingSettings

SLOWEST_STEP_S = 300.0
"""A slice ends at the next step after its time; no step may take longer than this, and the broker waits for it."""


class TrainerSettings(ServingSettings, BaseSettings):
    """Environment of the trainer's API and worker; every variable starts with TRAINER_."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_", frozen=True, hide_input_in_errors=True)

    port: int = Field(8004, ge=0, le=65535, description="0 takes a free one; the log line `listening` tells which.")
    assets: Path = Field(MINI_ASSETS, description="Folder of the mini models: what 'mini' stands for.")
    data_set: str = Field("mini", description="'mini', or the folder of a data set.")
    model_cache: Path = Field(
        DEFAULT_CACHE, description="Folder of fetched models: where profiles and owner/name@revision lie."
    )
    bundle: str = Field(
        "mini", description="The generator's: 'mini', a profile, owner/name@revision of a model hub, or a folder."
    )
    clip: str = Field(
        "mini",
        description="CLIP by which the gate measures diversity: 'mini', a profile, owner/name@revision, a folder, or a "
        "published one's name.",
    )
    clip_pretrained: str | None = Field(None, description="Tag of a published CLIP model's weights.")
    device: str = Field("cpu", description="Of the worker's models, as torch names it: 'cpu', 'cuda', 'cuda:1'.")
    threads: int | None = Field(None, ge=1, description="Of torch on the CPU; none: as many as it finds cores.")
    processes: int | None = Field(
        None, ge=1, description="That train together; none: one per visible device if device is 'cuda', else one."
    )

    redis_url: SecretStr | None = Field(
        None, description="Records, leases and queue; none: the API alone, for trying it, with everything in memory."
    )
    redis_prefix: str = Field("fashiondpo", pattern=r"^[A-Za-z0-9._-]+$", description="Start of every key in Redis.")
    artifacts_url: str = Field(
        "runs/services/artifacts", description="Pictures, trajectories and weights: a folder or any fsspec URL."
    )
    training_folder: Path = Field(
        Path("runs/services/training"), description="Checkpoints and metrics; all workers share it."
    )

    generator_url: str = Field("http://127.0.0.1:8000", description="The generator that paints what rounds collect.")
    judge_urls: tuple[str, ...] = Field(
        ("http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"),
        min_length=1,
        description="The judges, as a JSON list.",
    )
    service_key: SecretStr | None = Field(
        None, description="API key for generator and judges, with the scopes generate and train."
    )
    service_key_file: Path | None = Field(None, description="A file with that key; for mounted secrets.")
    service_timeout_s: float = Field(60.0, gt=0, description="For an answer of generator or judge.")

    slice_s: float = Field(180.0, gt=0, description="A round is worked on for so long, then saves and queues up again.")
    lease_s: float = Field(30.0, gt=0, description="A worker that is silent for longer has lost its round to others.")
    visibility_timeout_s: int = Field(
        3600, ge=1, description="The broker repeats a task that nobody finished after so long; well above slice_s."
    )
    max_attempts: int = Field(5, ge=1, description="Slices that may fail one after the other without any progress.")
    retry_first_s: float = Field(5.0, gt=0, description="Pause before what failed is tried again; it doubles.")
    retry_longest_s: float = Field(300.0, gt=0, description="The longest such pause.")
    give_up_after_s: float = Field(
        21_600.0, gt=0, description="A round fails if what it needs has not answered for so long."
    )
    sets_per_call: int = Field(8, ge=1, le=64, description="Candidate sets painted, or judged, by one request.")
    reconcile_s: float = Field(10.0, gt=0, description="So often rounds that nobody holds are looked for.")
    requeue_after_s: float = Field(60.0, gt=0, description="A queued round that nobody takes is queued again then.")

    score_traffic_s: float = Field(30.0, gt=0, description="So often recorded traffic is given to the judges.")
    score_traffic_sets: int = Field(64, ge=1, description="Recorded sets judged in one go.")
    continuous_sets: int = Field(
        0, ge=0, description="A round over traffic starts by itself when so many scored sets wait; 0: never."
    )
    continuous_request: TrainRequest = Field(
        TrainRequest(source="traffic"), description="What such a round is asked for, as JSON, like POST /train."
    )
    continuous_check_s: float = Field(60.0, gt=0, description="So often that is looked for.")

    keep_rounds: int = Field(
        0, ge=0, description="So many of the newest ended rounds are kept, older ones removed; 0: no such limit."
    )
    keep_rounds_days: float = Field(
        0.0,
        ge=0,
        description="Rounds that ended so many days ago are removed, unless keep_rounds keeps them; 0: no limit.",
    )
    keep_check_s: float = Field(3600.0, gt=0, description="So often rounds that may be removed are looked for.")

    idempotency_s: int = Field(86_400, ge=1, description="An Idempotency-Key is remembered for so long.")
    keepalive_s: float = Field(15.0, gt=0, description="An event stream is never silent for longer.")
    worker_metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Where the worker shows its figures to Prometheus; none: nowhere."
    )

    def place(self, name: str, within: str) -> str:
        """What a setting names, or where the mini family has its own."""
        return str(self.assets / within) if name == "mini" else name

    @property
    def models(self) -> ModelPlaces:
        """Where models lie that go by a name."""
        return ModelPlaces(self.model_cache, self.assets)

    def peer_key(self) -> str | None:
        """The key for generator and judges, from whichever of the two settings; None without one.

        Raises:
            InvalidInput: if the file cannot be read.
        """
        if self.service_key is not None:
            return self.service_key.get_secret_value()
        if self.service_key_file is None:
            return None
        try:
            return self.service_key_file.read_text().strip()
        except OSError as error:
            raise InvalidInput(f"service_key_file {self.service_key_file} cannot be read: {error.strerror}") from error

    @field_validator(
        "redis_url",
        "threads",
        "processes",
        "service_key",
        "service_key_file",
        "clip_pretrained",
        "worker_metrics_port",
        mode="before",
    )
    @classmethod
    def _empty_means_none(cls, value: object) -> object:
        """Compose files pass unset variables as empty strings."""
        return None if value == "" else value

    @model_validator(mode="after")
    def _times_fit_together(self) -> Self:
        if self.visibility_timeout_s < self.slice_s + SLOWEST_STEP_S:
            raise ValueError(
                f"visibility_timeout_s is {self.visibility_timeout_s}, slice_s is {self.slice_s:g}: it must be at least "
                f"{SLOWEST_STEP_S:g} s longer, or the broker gives a slice that is under way to a second worker"
            )
        if self.retry_longest_s < self.retry_first_s:
            raise ValueError(f"retry_longest_s is {self.retry_longest_s:g}, below retry_first_s {self.retry_first_s:g}")
        if self.continuous_sets and self.continuous_request.source != "traffic":
            raise ValueError("continuous_request must have the source 'traffic': it learns from what was recorded")
        return self
