"""`python -m services.generator` serves the generator; settings come from the environment."""

from fashiondpo.serving.run import run
from services.generator.app import create_app
from services.generator.settings import GeneratorSettings

if __name__ == "__main__":
    raise SystemExit(run(create_app, GeneratorSettings()))
