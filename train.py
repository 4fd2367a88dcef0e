"""Train a Vision Transformer: `python train.py key=value …`, `--multirun` for sweeps, `--help` for the keys.

From top to bottom it follows the data: images, model, epochs, test. `resume=<folder>` goes the same way, and takes
over the run's last checkpoint before its next step. Started by torchrun, every process does; one owns the folder.
"""

from src.config.schema import TrainConfig
from src.run.job import Job
from src.start.launch import launch


def train(config: TrainConfig, job: Job) -> float:
    """Train one model into `job.folder`; return the best validation accuracy, a fraction."""
    # Imported here and not above, so that --help, TAB completion and a typo are answered without waiting for torch.
    from src import build, terminal
    from src.data.load import load_data
    from src.data.report import inspect_data
    from src.distributed.torchrun import read_place
    from src.engine.epoch import Pulse, StepWatch, TimeLimit, make_row, summarize, train_steps
    from src.engine.evaluation import choose_best, evaluate, validate
    from src.engine.memory import OutOfMemory, fit_memory
    from src.engine.profile import StepProfiler
    from src.engine.trainer import Progress
    from src.evaluate import write_augmentations, write_figures, write_test
    from src.machine.disk import short_path
    from src.machine.memory import peak_memory
    from src.run.files import LAST
    from src.run.log import log, log_lines, start_log
    from src.run.record import Run
    from src.run.resume import nothing_left
    from src.run.saved import read_run
    from src.signals import Interrupts

    # Device and processes. What fails before the run is opened leaves no folder behind.
    start_log(shown=read_place().main and not job.quiet)
    device, precision, world = build.open_device(config)
    # Which job of a sweep is next is for the first process to say.
    folder, config = world.broadcast((job.folder, config))
    if config.resume and (answer := world.ask_main(nothing_left, folder, config)):
        log.info(answer)
        return read_run(folder).val_acc

    # Images, decoded once and kept where they fit. What they are completes the configuration.
    stored_size = build.choose_stored_size(config)
    data = load_data(config.dataset, config.model.image_size, terminal.track, device, stored_size, config.check)
    config = build.complete_config(config, data)
    training, look = config.training, data.preprocessing
    assert training.batch_size is not None  # no null is left
    report = inspect_data(data, training.batch_size)
    if config.check:
        terminal.show_report(report.counts, report.sections())
        return 0.0
    log_lines([*data.lines(config.dataset.name), *report.lines()], report.warnings)

    # The model, and what takes its steps.
    model = build.build_model(config, device, job.choices.get("model", ""))
    build.load_initial_weights(model, config, resumed=(folder / LAST).is_file())
    trainer = build.build_trainer(config, model, look, data.train.labels, precision, world)
    steps, parameters = trainer.steps_per_epoch(data.train), build.count_parameters(model)
    open_run = Run.resume if config.resume else Run.begin

    with (
        Interrupts(terminal.announce_end, job.stop) as interrupts,
        open_run(folder, config, job, data, parameters, world) as run,
    ):
        log.info(f"run       {short_path(folder)}")
        # As many images at once as memory holds; then on from the last checkpoint, where there is one.
        fit = fit_memory(trainer, data.train, look, len(data.val) * training.compile)
        progress, ended = build.restore(trainer, run, data.train, pruned=job.judge is not None)
        drawing = write_augmentations(folder, trainer, data)
        # At the end come evaluations, and six pictures that take about as long as that of the augmentations, or more.
        num_evaluated = len(data.val) * len(trainer.models()) + len(data.test)
        reserved = fit.evaluation_seconds * num_evaluated / world.size + 10 * drawing
        limit = TimeLimit(training.max_minutes, run.seconds, reserved)

        def save() -> None:
            run.save_last({**trainer.state_dict(progress), "ended": ended})

        # Training: each epoch is trained, validated and recorded before the next one starts.
        watch = StepWatch(trainer, data.train)
        pulse = Pulse(watch, interrupts, limit, run.checkpoint_due, save)
        save()
        interrupts.defer = True
        with terminal.TrainingBar(training.epochs, steps) as bar, StepProfiler(device, run.profile_files()) as profiler:
            while progress.epoch <= training.epochs and not ended:
                bar.start_epoch(progress.epoch)
                with OutOfMemory(trainer) as memory:
                    for _ in train_steps(trainer, data.train, progress, watch):
                        bar.update(progress.step, watch.loss, watch.rate(progress))
                        profiler.step()
                        pulse.beat()
                        if pulse.time_is_up:
                            break
                    trained = summarize(trainer, progress, watch)
                    validated = validate(trainer, data.val, look, pulse.beat)
                if memory.too_small:  # the same experiment from the last checkpoint on, in smaller micro-batches
                    progress = build.go_back(trainer, run, data.train)
                    continue
                kind = choose_best(validated, training.best)
                chosen = validated[kind]
                better = run.keep_best(trainer.models(), kind, progress.epoch, chosen.accuracy, chosen.loss)
                row = make_row(progress, trained, validated)
                run.record(row, peak_memory(device))
                log.info(terminal.describe_epoch(row, training.epochs, better))
                ended = run.find_end(chosen.accuracy, pulse.time_is_up, job.judge)
                if progress.step == steps:
                    progress = Progress.of_epoch(progress.epoch + 1, device)
                save()
        if ended:
            run.note_end(ended, progress.step or steps, steps)

        # The test split is used here, once, with the weights of the best validation epoch.
        pulse.stop()
        best = run.load_best()
        trainer.load_weights(best)
        size = trainer.micro_batch_size
        tested = evaluate(model, data.test, look, size, precision, world, each_image=True)
        if world.main:
            run.note_test(write_test(folder, tested, data, config.dataset.root))
            write_figures(folder, build.gather_model(trainer, config, best), data, size)

    terminal.show_pairs(run.next_steps())
    return run.best_val_acc()


if __name__ == "__main__":
    raise SystemExit(launch(train, "config", TrainConfig))
