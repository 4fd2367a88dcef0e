"""Use saved runs: `python inference.py` lists them and asks; `run=… input=…` predicts; `task=compare` compares."""

if __name__ == "__main__":
    from src.signals import note_signals

    note_signals()  # before the other imports, in which Ctrl-C would be a traceback

from src.config.inference import InferenceConfig
from src.run.job import Job
from src.start.launch import launch

# Imports stand inside the tasks, so that --help, TAB completion, a typo and the table of runs do not wait for torch.


def ask(config: InferenceConfig) -> None:
    """List the runs, ask for one, then for images, again and again."""
    from src.predict.session import ask_about_images

    ask_about_images(config)


def show(config: InferenceConfig) -> None:
    """Print the table of all runs, with their folders."""
    from src.predict.session import list_runs

    list_runs(config, everything=True)


def predict(config: InferenceConfig) -> None:
    """Predict `input` with one run; print the classes, or write them into a table."""
    from src.predict.session import predict_once

    predict_once(config)


def compare(config: InferenceConfig) -> None:
    """Compare runs: settings, results, seeds, and the test images one by one."""
    from src.compare.compare import compare_runs

    compare_runs(config)


def embed(config: InferenceConfig) -> None:
    """Write the features of `input`, or find the images in it that are the most similar to `query`."""
    from src.predict.embed import embed_images

    embed_images(config)


def export(config: InferenceConfig) -> None:
    """Write a run in the formats of other programs, each checked on test images."""
    from src.export.export import export_run

    export_run(config)


def serve(config: InferenceConfig) -> None:
    """Show all of this, and training, as a page in the browser, until Ctrl-C."""
    from src.web.serve import serve as serve_page

    serve_page(config)


# Each has a file in configs/task/.
TASKS = {
    "interactive": ask,
    "list": show,
    "predict": predict,
    "compare": compare,
    "embed": embed,
    "export": export,
    "serve": serve,
}


def infer(config: InferenceConfig, job: Job) -> None:
    TASKS[config.task.name](config)


if __name__ == "__main__":
    raise SystemExit(launch(infer, "inference", InferenceConfig))
