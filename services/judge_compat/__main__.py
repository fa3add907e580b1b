"""`python -m services.judge_compat` serves the judge; settings come from the environment."""

from fashiondpo.serving.run import run
from services.judge_compat.app import create_app
from services.judge_compat.settings import JudgeCompatSettings

if __name__ == "__main__":
    raise SystemExit(run(create_app, JudgeCompatSettings()))
