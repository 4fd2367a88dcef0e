"""Train a Vision Transformer: `python train.py key=value …`, `--multirun` for sweeps, `--help` for the keys.

From top to bottom it follows the data: images, model, epochs, test. `resume=<folder>` does the same, but loads the
run's last checkpoint before the first step. Under torchrun, all processes run it, and rank 0 owns the folder.
"""

if __name__ == "__main__":
    from src.signals import note_signals

    note_signals()  # before the other imports, in which Ctrl-C would be a traceback

from src.config.schema import TrainConfig
from src.run.job import Job
from src.start.launch import launch


def train(config: TrainConfig, job: Job) -> float:
    """Train one model into `job.folder`; return the best validation accuracy, a fraction."""
    # Imported here, so that --help, TAB completion and a typo are answered without importing torch.
    from src import build, terminal
    from src.config.photos import describe_chosen
    from src.data.load import load_data
    from src.data.report import inspect_data
    from src.distributed.torchrun import read_place
    from src.engine.epoch import StepControl, StepWatch, TimeLimit, make_row, summarize, train_steps
    from src.engine.evaluation import choose_best, evaluate, validate
    from src.engine.features import count_evaluated
    from src.engine.memory import OutOfMemory, count_parameters, fit_memory
    from src.engine.profile import StepProfiler
    from src.engine.trainer import Progress
    from src.evaluate import write_augmentations, write_check, write_figures, write_test
    from src.initialize import load_initial_weights
    from src.machine.disk import short_path
    from src.machine.memory import peak_memory
    from src.run.files import LAST
    from src.run.log import log, log_lines, start_log
    from src.run.record import Run
    from src.run.resume import explain_finished
    from src.run.saved import read_run
    from src.signals import Interrupts

    # Device and processes. An error before the run is opened leaves no folder behind.
    start_log(shown=read_place().main and not job.quiet)
    device, world = build.open_device(config)
    # In a sweep, the first process decides which job is next.
    folder, config = world.broadcast((job.folder, config))
    if config.resume and (answer := world.ask_main(explain_finished, folder, config)):
        log.info(answer)
        return read_run(folder).val_acc or 0.0

    # Images, decoded once and kept in memory if they fit. They complete the configuration.
    stored_size = build.choose_stored_size(config)
    size, resumed = config.model.image_size, config.resume is not None
    data = load_data(config.dataset, size, terminal.track, device, stored_size, bool(config.check), resumed)
    config, look = build.complete_config(config, data), data.preprocessing
    assert config.training.batch_size is not None
    report = inspect_data(data, config.training.batch_size)
    if config.check:
        terminal.show_report(report.counts, report.sections())
        if config.check is not True and world.main:
            written = write_check(report, config, data, build.build_augmentation(config, look))
            terminal.show_pairs([("written", short_path(written))])
        return 0.0
    log_lines([*data.lines(config.dataset.name), *report.lines(), *describe_chosen(job.chosen)], report.warnings)

    # The model, the fastest way to compute it on this device, and its trainer.
    model = build.build_model(config, device, job.choices.get("model", ""))
    load_initial_weights(model, config, data.classes, resumed=(folder / LAST).is_file())
    config = build.choose_computing(config, model, len(data.train), world)
    training, epochs = config.training, config.training.epochs
    assert epochs is not None  # a complete configuration has no null
    trainer = build.build_trainer(config, model, look, data.train.labels, world)
    steps, parameters = trainer.steps_per_epoch(data.train), count_parameters(model)
    open_run = Run.resume if config.resume else Run.begin

    with (
        Interrupts(terminal.announce_end, job.stop, defer=True) as interrupts,
        open_run(folder, config, job, data, parameters, world) as run,
    ):
        interrupts.release()
        log.info(f"run       {short_path(folder)}")
        # The largest micro-batch that fits into memory; then the last checkpoint, if there is one.
        fit = fit_memory(trainer, data.train, look, len(data.val) * training.compile)
        if training.compile:
            log.info(f"compiled  in {fit.first_seconds:.1f} s, first steps and evaluations included")
        progress, ended = build.restore(trainer, run, data.train, pruned=job.should_prune is not None)
        drawing = write_augmentations(folder, config, data, trainer)
        if not ended and progress.epoch <= epochs:
            data = build.cache_features(trainer, config, data, fit.evaluation_seconds, run.seconds(), terminal.track)
        # Time for the end of the run: evaluations, and six figures that take about as long as this one or longer.
        reserved = fit.evaluation_seconds * count_evaluated(trainer, data) / world.size + 10 * drawing
        limit = TimeLimit(training.max_minutes, run.seconds, reserved)

        def save() -> None:
            run.save_last({**trainer.state_dict(progress), "ended": ended})

        # Training: each epoch is trained, validated, and recorded.
        watch = StepWatch(trainer, data.train)
        control = StepControl(watch, interrupts, limit, run.checkpoint_due, save)
        save()
        interrupts.defer = True
        if not ended and progress.epoch <= epochs:
            log.info("epochs    *: the best so far, by validation accuracy; its weights are kept")
        with terminal.TrainingBar(epochs, steps) as bar, StepProfiler(device, run.profile_files()) as profiler:
            while progress.epoch <= epochs and not ended:
                bar.start_epoch(progress.epoch)
                with OutOfMemory(trainer) as memory:
                    for _ in train_steps(trainer, data.train, progress, watch):
                        bar.update(progress.step, watch.loss, watch.rate(progress))
                        profiler.step()
                        control.check()
                        if control.time_is_up:
                            break
                    trained = summarize(trainer, progress, watch)
                    validated = validate(trainer, data.val, look, control.check)
                if memory.ran_out:  # continue from the last checkpoint, in smaller micro-batches
                    progress = build.reload(trainer, run, data.train)
                    continue
                kind = choose_best(validated, training.best)
                chosen = validated[kind]
                better = run.keep_best(trainer.models(), kind, progress.epoch, chosen.accuracy, chosen.loss)
                row = make_row(progress, trained, validated)
                run.record(row, peak_memory(device))
                log.info(terminal.describe_epoch(row, epochs, better))
                ended = run.find_end(chosen.accuracy, control.time_is_up, job.should_prune)
                if progress.step == steps:
                    progress = Progress.of_epoch(progress.epoch + 1, device)
                save()
        if ended:
            run.report_end(ended, progress.step or steps, steps)

        # The test split is used only here, once, with the weights of the best validation epoch.
        control.finish()
        best = run.load_best()
        trainer.load_weights(best)
        size = trainer.micro_batch_size
        tested = evaluate(model, data.test, look, size, trainer.precision, world, each_image=True)
        if world.main:
            run.report_test(write_test(folder, tested, data, config.dataset.root))
            write_figures(folder, build.gather_model(trainer, config, best), data, size)

    terminal.show_pairs(run.next_steps())
    return run.best_val_acc()


if __name__ == "__main__":
    raise SystemExit(launch(train, "config", TrainConfig))
