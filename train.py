"""Train a Vision Transformer: `python train.py key=value …`, `--multirun` for sweeps, `--help` for the keys.

From top to bottom it follows the data: images, model, epochs, test. `resume=<folder>` goes the same way, and takes
over the run's last checkpoint before its next step. Started by torchrun, every process does; one owns the folder.
"""

import os
import time
from pathlib import Path

from src.config import Job, TrainConfig, complete, launch, load_config


def train(config: TrainConfig, job: Job) -> float:
    """Train one model into `job.folder`; return the best validation accuracy, a fraction."""
    # Threads of GNU OpenMP wait by spinning. Where other programs run, that was seen to cost fifty times the time of
    # a step; after a short spin they now sleep, which costs nothing where the CPU is idle.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Here and not above, so that --help, TAB completion and a typo are answered without waiting for torch.
    from dataclasses import asdict, replace

    import torch
    from safetensors.torch import load_file

    from src import engine, metrics, terminal
    from src.augment import Augmentation
    from src.data import inspect_data, load_data
    from src.distributed import gather_state, join_world, local_device, wrap_model
    from src.evaluate import write_augmentations, write_figures, write_test
    from src.model import VisionTransformer
    from src.optim import ExponentialMovingAverage, LearningRate, build_optimizer
    from src.pretrained import freeze, list_untrained, load_weights, read_weights
    from src.run import (
        BEST,
        CONFIG,
        LAST,
        PROFILE_TABLE,
        PROFILE_TRACE,
        PRUNED,
        Run,
        describe_changes,
        find_weights,
        log,
        name_limits,
        nothing_left,
        read_run,
    )
    from src.seeding import generator_for
    from src.signals import Interrupts

    # Device, processes and images. What fails here leaves no run folder behind.
    device, reason = engine.choose_device(config.device)
    device = local_device(device)
    engine.choose_algorithms(config.training.deterministic)
    engine.forget_peak_memory(device)
    world = join_world(device)
    terminal.log_to_console(log, shown=world.main and not job.quiet)
    # Which job of a sweep is next, and whether it goes on, is for the first process to say.
    folder, config = world.broadcast((job.folder, config))
    if config.resume and (answer := world.broadcast(nothing_left(folder, config) if world.main else None)):
        log.info(answer)
        return read_run(folder).val_acc
    precision = engine.choose_precision(config.training.precision, device)
    parts = asdict(config.augmentation)
    mix_off_share, repeats = parts.pop("mix_off_share"), parts.pop("repeats")
    augmentation = Augmentation(size=config.model.image_size, mean=(), std=(), num_classes=0, **parts)
    data = load_data(config.dataset, augmentation.size, terminal.track, device, augmentation.stored_size, config.check)
    engine.keep_freed_memory()
    images = data.preprocessing
    counts = len(data.train), len(data.classes), images.channels
    config = complete(config, *counts, list(images.mean), list(images.std))
    training, batch_size = config.training, config.training.batch_size
    assert batch_size is not None  # `complete` has filled in every null
    report = inspect_data(data, batch_size)
    if config.check:
        terminal.show_report(report.counts, report.sections())
        return 0.0
    augmentation = replace(augmentation, mean=images.mean, std=images.std, num_classes=len(data.classes))

    # The model; its initial weights are a function of the seed alone, or those of another run.
    torch.manual_seed(config.seed)
    model = VisionTransformer(**asdict(config.model)).to(device)
    model.gradient_checkpointing = training.gradient_checkpointing
    parameters = sum(parameter.numel() for parameter in model.parameters())
    gflops = engine.count_gflops(model)
    work = 3 * gflops * batch_size  # of a step: the backward pass costs two forward ones
    engine.limit_threads(device, work)
    if engine.choose_kernels(device, work, model.num_tokens):
        reason += "; oneDNN multiplies"
    loaded = None
    if config.init.weights and not (folder / LAST).is_file():
        path, grid = find_weights(config.init.weights)
        loaded = load_weights(model, read_weights(path), terminal.short_path(path), grid)
    trainable = freeze(model, config.init.freeze)
    steps = -(-len(data.train) // batch_size)
    learning_rate = LearningRate(config.scheduler, config.optimizer.lr, steps, training.epochs)
    saved = world.broadcast(load_config(folder / CONFIG) if config.resume and world.main else None)

    with (
        Interrupts(terminal.announce_end, job.stop) as interrupts,
        Run(folder, config, job, data, parameters, owner=world.main) as run,
    ):
        color = {1: "grey", 3: "colour"}.get(images.channels, f"{images.channels} channels")
        sizes = f"{len(data.train):,} training, {len(data.val):,} validation, {len(data.test):,} test images"
        processes = f", {world.size} processes ({training.strategy})" if world.size > 1 else ""
        log.info(f"device    {device}, {str(precision).removeprefix('torch.')}{processes} ({reason})")
        log.info(
            f"data      {config.dataset.name}: {len(data.classes)} classes, {images.size[0]} × {images.size[1]} px, "
            f"{color}; {sizes}"
        )
        log.info(f"images    {report.summary}")
        log.info(f"held      {data.place}")
        log.info(
            f"model     {job.choices.get('model')}: {parameters:,} parameters, {model.num_tokens} tokens "
            f"(patch {model.patch_size} px), {gflops:.3g} GFLOPs per image"
        )
        for line in loaded.lines() if loaded else []:
            log.info(f"init      {line}")
        if trainable < parameters:
            log.info(f"frozen    {parameters - trainable:,} parameters; {trainable:,} are trained")
            if random := list_untrained(model, loaded):
                log.warning(f"frozen as initialized, as nothing was loaded for it: {', '.join(random)}")
        if config.init.layer_decay and not config.init.weights:
            log.warning("init.layer_decay without init.weights: the first layers, which know nothing, learn slowest")
        log.info(f"run       {terminal.short_path(folder)}")
        for warning in report.warnings:
            log.warning(warning)
        num_patches = model.num_tokens - model.num_prefix_tokens
        if world.size == 1 and training.strategy == "fsdp":
            log.warning("training.strategy=fsdp has no effect in one process; torchrun starts several")
        if num_patches < 16:
            log.warning(f"only {num_patches} patches per image; a smaller model.patch_size sees more")

        # What takes the steps, with as many images at once as memory holds.
        weights = None
        if training.class_weights == "balanced":
            weights = engine.balanced_weights(data.train.labels, len(data.classes)).to(device)
        ema = ExponentialMovingAverage(model, training.ema) if training.ema else None
        network = wrap_model(model, world, training.strategy, device)
        sharded = world.size > 1 and training.strategy == "fsdp"
        if ema and sharded:
            wrap_model(ema.model, world, training.strategy, device)
        share = -(-min(batch_size, len(data.train)) // world.size)
        trainer = engine.Trainer(
            model=model,
            network=network,
            optimizer=build_optimizer(model, config.optimizer, config.init.layer_decay),
            learning_rate=learning_rate,
            augmentation=augmentation,
            device=device,
            precision=precision,
            seed=config.seed,
            batch_size=batch_size,
            micro_batch_size=min(share, training.micro_batch_size or -(-share // (training.accumulate or 1))),
            total_steps=training.epochs * steps,
            label_smoothing=training.label_smoothing,
            clip_norm=training.clip_norm,
            class_weights=weights,
            mix_until=round((1 - mix_off_share) * training.epochs * steps),
            patch_dropout=training.patch_dropout,
            drop_patches_until=round((1 - training.patch_dropout_off_share) * training.epochs * steps),
            balanced_sampling=training.sampler == "balanced",
            repeats=repeats,
            ema=ema,
            world=world,
        )
        if training.compile:
            engine.compile_network(network)
        fit = engine.fit_memory(trainer, data.train, images, len(data.val) * training.compile)
        if training.compile:
            log.info(f"compiled  in {fit.first_seconds:.1f} s, first steps and evaluations included")
        progress, ended = engine.Progress.of_epoch(1, device), None
        if saved and (state := world.broadcast(run.load_last())):
            progress = trainer.load_state_dict(state)
            # What ended it still does if it is the same; and a last epoch that the time had cut short goes on.
            lasting = [*name_limits(training).values(), *([PRUNED] if job.judge else [])]
            ended = state["ended"] if state["ended"] in lasting else None
        if trainer.memory_is_short:
            run.note_memory(trainer.micro_batch_size, share)
        if saved:
            for change in describe_changes(saved, config, learning_rate, (progress.epoch - 1) * steps + progress.step):
                log.info(f"changed   {change}")
            only_test = ended or progress.epoch > training.epochs
            where = "the test" if only_test else f"epoch {progress.epoch} after step {progress.step} of {steps}"
            log.info(f"resumed   in {where}")
        if not ended:
            run.reopen(progress.epoch)
        first = trainer.order(data.train, epoch=1)[:batch_size]
        begun = time.monotonic()
        if world.main:
            draws = generator_for("augment", config.seed, 0)
            write_augmentations(folder, augmentation, data, first, draws, mix=trainer.mix_until > 0)
        num_evaluated = len(data.val) * len(trainer.models()) + len(data.test)
        # At the end come evaluations, and six pictures that take about as long as that of the augmentations, or more.
        reserved = fit.evaluation_seconds * num_evaluated / world.size + 10 * (time.monotonic() - begun)
        limit = engine.TimeLimit(training.max_minutes, run.seconds, reserved)

        # Training: each epoch is trained, validated and recorded before the next one begins.
        def save() -> None:
            run.save_last({**trainer.state_dict(progress), "ended": ended})

        watch = engine.StepWatch(trainer, data.train)
        pulse = engine.Pulse(watch, interrupts, limit, run.checkpoint_due, save)
        profiled = (folder / PROFILE_TRACE, folder / PROFILE_TABLE) if training.profile and world.main else None
        save()
        with terminal.TrainingBar(training.epochs, steps) as bar, engine.StepProfiler(device, profiled) as profiler:
            interrupts.defer = True
            while progress.epoch <= training.epochs and not ended:
                bar.start_epoch(progress.epoch)
                with engine.OutOfMemory(trainer) as memory:
                    for _ in engine.train_steps(trainer, data.train, progress, watch):
                        bar.update(progress.step, watch.loss, watch.rate(progress))
                        profiler.step()
                        pulse.beat()
                        if pulse.time_is_up:
                            break
                    trained = engine.summarize(trainer, progress, watch)
                    validated = engine.validate(trainer, data.val, images, pulse.beat)
                if memory.too_small:
                    # The same experiment from the last checkpoint on, in smaller pieces.
                    run.note_memory(trainer.micro_batch_size, share)
                    state = run.load_last()
                    assert state is not None
                    progress = trainer.load_state_dict(state)
                    continue
                raw, kind = validated["raw"], engine.choose_best(validated, training.best)
                chosen = validated[kind]
                kind, better = world.broadcast((kind, run.is_best(chosen.accuracy, chosen.loss)))
                if better:
                    best = gather_state(trainer.models()[kind].state_dict())
                    run.save_best(best, progress.epoch, chosen.accuracy, chosen.loss, kind)
                macro_precision, macro_recall, macro_f1 = metrics.macro(raw.confusion)
                row = {
                    "epoch": progress.epoch,
                    "lr": trained.lr,
                    "train_loss": trained.loss,
                    "train_acc": trained.accuracy,
                    "val_loss": raw.loss,
                    "val_acc": raw.accuracy,
                    "val_precision": macro_precision,
                    "val_recall": macro_recall,
                    "val_f1": macro_f1,
                    "images_per_second": round(trained.images_per_second, 1),
                }
                if "ema" in validated:
                    row |= {"ema_val_loss": validated["ema"].loss, "ema_val_acc": validated["ema"].accuracy}
                run.status["peak_memory"] = max(run.status["peak_memory"] or 0, engine.peak_memory(device) or 0) or None
                run.record(row)
                log.info(terminal.describe_epoch(row, training.epochs, better))
                limits, patience = name_limits(training), training.early_stopping
                if pulse.time_is_up:
                    ended = limits["max_minutes"]
                elif patience and progress.epoch - run.best.get("epoch", 0) >= patience:
                    ended = limits["early_stopping"]
                elif job.judge and progress.epoch < training.epochs and job.judge(progress.epoch, chosen.accuracy):
                    ended = PRUNED
                ended = world.broadcast(ended)
                if progress.step == steps:
                    progress = engine.Progress.of_epoch(progress.epoch + 1, device)
                save()
        if ended:
            run.note(ended=ended)
            log.info(f"ended     by {ended}, after step {progress.step or steps} of {steps} in the last epoch")

        # The test split is used here, once, with the weights of the best validation epoch.
        pulse.stop()
        run.wait()
        best = world.broadcast(load_file(folder / BEST) if world.main else {})
        trainer.load_weights(best)
        tested = engine.evaluate(model, data.test, images, trainer.micro_batch_size, precision, world, each_image=True)
        if world.main:
            summary = write_test(folder, tested, data, config.dataset.root)
            run.note(test_acc=summary["accuracy"])
            if sharded:  # a picture of attention needs all of the model in one place
                model = VisionTransformer(**asdict(config.model))
                model.load_state_dict(best)
                device = torch.device("cpu")
            write_figures(folder, model, data, device, trainer.micro_batch_size)
            log.info(f"best      epoch {run.best['epoch']}: validation accuracy {run.best['val_acc']:.2%}")
            per_class = summary["mean_class_accuracy"]
            log.info(
                f"test      accuracy {tested.accuracy:.2%}, mean of the classes {per_class:.2%}, loss {tested.loss:.4f}"
            )

    if profiled:
        log.info(f"profile   {terminal.short_path(profiled[0])}, {profiled[1].name}")
    terminal.show_pairs(run.next_steps())
    return world.broadcast(run.best.get("val_acc", 0.0))


def find_run(wanted: str) -> Path:
    """Return the folder that `resume=` means."""
    from src.run import open_resumable

    return open_resumable(wanted, ["outputs", "multirun"]).folder


if __name__ == "__main__":
    raise SystemExit(launch(train, "config", TrainConfig, find_run))
