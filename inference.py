"""Use saved runs: `python inference.py` lists them and asks; `run=… input=…` predicts; `task=compare` compares."""

from src.config import InferenceConfig, Job, launch


def infer(config: InferenceConfig, job: Job) -> None:
    # Here and not above, so that --help, TAB completion and a typo are answered without waiting for rich.
    from src.predict import session

    if config.task.name == "compare":
        from src.compare import compare_runs

        compare_runs(config)
    elif config.input is not None:
        session.predict_once(config)
    elif config.task.name == "list":
        session.list_runs(config, everything=True)
    else:
        session.ask_about_images(config)


if __name__ == "__main__":
    raise SystemExit(launch(infer, "inference", InferenceConfig))
