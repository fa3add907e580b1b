"""`python -m services.judge_personal` serves the judge; settings come from the environment."""

from fashiondpo.serving.run import run
from services.judge_personal.app import create_app
from services.judge_personal.settings import JudgePersonalSettings

if __name__ == "__main__":
    raise SystemExit(run(create_app, JudgePersonalSettings()))
