"""`python -m services.judge_quality` serves the judge; settings come from the environment."""

from fashiondpo.serving.run import run
from services.judge_quality.app import create_app
from services.judge_quality.settings import JudgeQualitySettings

if __name__ == "__main__":
    raise SystemExit(run(create_app, JudgeQualitySettings()))
