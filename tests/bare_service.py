"""The service of `tests.api.small_service` as a process: `python -m tests.bare_service`, settings as BARE_SERVICE_*."""

from pydantic_settings import BaseSettings, SettingsConfigDict

from fashiondpo.serving.app import create_service
from fashiondpo.serving.run import run
from fashiondpo.serving.settings import ServingSettings
from tests.api.small_service import order_router


class BareSettings(ServingSettings, BaseSettings):
    model_config = SettingsConfigDict(env_prefix="BARE_SERVICE_", frozen=True, hide_input_in_errors=True)


def create_app(settings: BareSettings):
    return create_service(title="Bare", description="", settings=settings, routers=[order_router([])])


if __name__ == "__main__":
    raise SystemExit(run(create_app, BareSettings()))
