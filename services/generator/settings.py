"""Environment of the generator; every variable starts with GENERATOR_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fashiondpo.diffusion.placement_choices import DEVICES, Compilation, NumberType, Offload, Switch
from fashiondpo.model_cache.places import DEFAULT_CACHE, ModelPlaces
from fashiondpo.run_settings import MINI_ASSETS
from fashiondpo.serving.settings import ServingSettings


class GeneratorSettings(ServingSettings, BaseSettings):
    """Environment of the generator; every variable starts with GENERATOR_."""

    model_config = SettingsConfigDict(env_prefix="GENERATOR_", frozen=True, hide_input_in_errors=True)

    port: int = Field(8000, ge=0, le=65535, description="0 takes a free one; the log line `listening` tells which.")
    assets: Path = Field(MINI_ASSETS, description="Folder of the mini models: what 'mini' stands for.")
    model_cache: Path = Field(
        DEFAULT_CACHE, description="Folder of fetched models: where profiles and owner/name@revision lie."
    )
    bundle: str = Field(
        "mini", description="DiFashion bundle: 'mini', a profile, owner/name@revision of a model hub, or a folder."
    )
    data_set: str = Field("mini", description="'mini', or the folder of a data set: catalogue and histories.")
    splits: tuple[str, ...] = Field(
        ("train", "valid", "test"), description="Whose histories are known; of a user of several, the last counts."
    )
    device: str = Field(
        "cpu",
        pattern=DEVICES,
        description="Of the models: 'cpu', 'cuda', 'cuda:1', or 'auto': the first GPU with room, else the CPU.",
    )
    dtype: NumberType = Field(
        "auto", description="Of the models in memory; 'auto': float32 on a CPU, float16 on a GPU."
    )
    vae_slicing: Switch = Field("auto", description="Decode pictures one by one; 'auto': on a GPU with little memory.")
    vae_tiling: Switch = Field("auto", description="Decode large pictures in parts; 'auto': on a GPU they hardly fit.")
    offload: Offload = Field(
        "none", description="What waits in the machine's memory: 'none', 'text_encoder', or 'encoders', the VAE too."
    )
    compile: Compilation = Field(
        "off",
        description="Compile the UNet before serving: 'off'; 'if_possible', else go on without; 'required', else end.",
    )
    threads: int | None = Field(None, ge=1, description="Of torch on the CPU; none: as many as it finds cores.")

    artifacts_url: str = Field(
        "runs/services/artifacts", description="Pictures, trajectories and weights: a folder or any fsspec URL."
    )
    redis_url: SecretStr | None = Field(
        None, description="Records, adapters and aliases; none: this process keeps them, and forgets them when it ends."
    )
    redis_prefix: str = Field("fashiondpo", pattern=r"^[A-Za-z0-9._-]+$", description="Start of every key in Redis.")

    adapter_rank: int = Field(4, ge=1, description="Largest rank of an adapter that can be served.")
    rows_per_forward: int = Field(21, ge=1, description="Candidates denoised together, at most.")
    max_queued_rows: int = Field(512, ge=1, description="Candidates that may wait; beyond it the answer is 429.")
    max_deadline_s: float = Field(3600.0, gt=0, description="No generation takes longer than that.")
    previews_px: int = Field(64, ge=8, le=512, description="Longer side of the pictures in event streams.")
    keepalive_s: float = Field(15.0, gt=0, description="An event stream is never silent for longer.")
    writer_threads: int = Field(4, ge=1, description="Threads that encode pictures and write artifacts.")

    poll_adapters_s: float = Field(2.0, gt=0, description="The champion is asked for that often; hints come sooner.")
    retry_adapter_s: float = Field(30.0, gt=0, description="A champion that could not be served is tried again then.")
    max_adapter_mb: float = Field(64.0, gt=0, description="Largest adapter file that is registered, in MiB.")

    kept_generations: int = Field(1000, ge=1, description="Ended generations that this process still knows.")
    kept_generations_s: int = Field(
        86_400, ge=1, description="Redis forgets a generation and its Idempotency-Key then."
    )
    claim_s: float = Field(
        15.0,
        gt=0,
        description="An asynchronous generation whose replica is silent for longer is taken over by another.",
    )

    @field_validator("redis_url", "threads", mode="before")
    @classmethod
    def _empty_means_none(cls, value: object) -> object:
        """Compose files pass unset variables as empty strings."""
        return None if value == "" else value

    def place(self, name: str, within: str) -> Path:
        """The folder of this name, or where the mini family has its own."""
        return self.assets / within if name == "mini" else Path(name)

    @property
    def models(self) -> ModelPlaces:
        """Where models lie that go by a name."""
        return ModelPlaces(self.model_cache, self.assets)
