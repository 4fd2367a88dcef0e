"""Train a Vision Transformer: `python train.py key=value …`, `--multirun` for sweeps, `--help` for the keys.

From top to bottom it follows the data: images, model, epochs, test.
"""

import os

from src.config import Job, TrainConfig, complete, launch


def train(config: TrainConfig, job: Job) -> float:
    """Train one model into `job.folder`; return the best validation accuracy, a fraction."""
    # Threads of GNU OpenMP wait by spinning. Where other programs run, that was seen to cost fifty times the time of
    # a step; after a short spin they now sleep, which costs nothing where the CPU is idle.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Here and not above, so that --help, TAB completion and a typo are answered without waiting for torch.
    from dataclasses import asdict, replace

    import torch
    from safetensors.torch import load_file

    from src import metrics, terminal
    from src.augment import Augmentation
    from src.data import inspect_data, load_data
    from src.engine import (
        Trainer,
        balanced_weights,
        choose_device,
        choose_precision,
        count_gflops,
        evaluate,
        keep_freed_memory,
        limit_threads,
        train_epoch,
    )
    from src.evaluate import write_augmentations, write_figures, write_test
    from src.model import VisionTransformer
    from src.optim import LearningRate, build_optimizer
    from src.run import BEST, Run, log
    from src.seeding import generator_for

    # Device and images. What fails here leaves no run folder behind.
    terminal.log_to_console(log)
    device, reason = choose_device(config.device)
    precision = choose_precision(config.training.precision, device)
    parts = asdict(config.augmentation)
    mix_off_share, repeats = parts.pop("mix_off_share"), parts.pop("repeats")
    augmentation = Augmentation(size=config.model.image_size, mean=(), std=(), num_classes=0, **parts)
    data = load_data(config.dataset, augmentation.size, terminal.track, device, augmentation.stored_size, config.check)
    keep_freed_memory()
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

    # The model; its initial weights are a function of the seed alone.
    torch.manual_seed(config.seed)
    model = VisionTransformer(**asdict(config.model)).to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    gflops = count_gflops(model)
    limit_threads(device, 3 * gflops * batch_size)  # the backward pass costs two forward ones

    with Run(job.folder, config, job, data, parameters) as run:
        color = {1: "grey", 3: "colour"}.get(images.channels, f"{images.channels} channels")
        sizes = f"{len(data.train):,} training, {len(data.val):,} validation, {len(data.test):,} test images"
        log.info(f"device    {device}, {str(precision).removeprefix('torch.')} ({reason})")
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
        log.info(f"run       {terminal.short_path(job.folder)}")
        for warning in report.warnings:
            log.warning(warning)
        num_patches = model.num_tokens - model.num_prefix_tokens
        if num_patches < 16:
            log.warning(f"only {num_patches} patches per image; a smaller model.patch_size sees more")

        # Training: each epoch is trained, validated and recorded before the next one begins.
        steps = -(-len(data.train) // batch_size)
        weights = None
        if training.class_weights == "balanced":
            weights = balanced_weights(data.train.labels, len(data.classes)).to(device)
        learning_rate = LearningRate(config.scheduler, config.optimizer.lr, steps, training.epochs)
        trainer = Trainer(
            model=model,
            optimizer=build_optimizer(model, config.optimizer),
            learning_rate=learning_rate,
            augmentation=augmentation,
            device=device,
            precision=precision,
            seed=config.seed,
            label_smoothing=training.label_smoothing,
            clip_norm=training.clip_norm,
            class_weights=weights,
            mix_until=round((1 - mix_off_share) * training.epochs * steps),
            balanced_sampling=training.sampler == "balanced",
            repeats=repeats,
        )
        first = trainer.order(data.train, epoch=1)[:batch_size]
        draws = generator_for("augment", config.seed, 0)
        write_augmentations(job.folder, augmentation, data, first, draws, mix=trainer.mix_until > 0)
        with terminal.TrainingBar(training.epochs, steps) as bar:
            for epoch in range(1, training.epochs + 1):
                bar.start_epoch(epoch)
                trained = train_epoch(trainer, data.train, batch_size, epoch, bar.update)
                validated = evaluate(model, data.val, images, batch_size, precision)
                macro_precision, macro_recall, macro_f1 = metrics.macro(validated.confusion)
                better = run.is_best(validated.accuracy, validated.loss)
                if better:
                    run.save_best(model.state_dict(), epoch, validated.accuracy, validated.loss)
                run.save_last(trainer.state_dict(epoch))
                row = {
                    "epoch": epoch,
                    "lr": trained.lr,
                    "train_loss": trained.loss,
                    "train_acc": trained.accuracy,
                    "val_loss": validated.loss,
                    "val_acc": validated.accuracy,
                    "val_precision": macro_precision,
                    "val_recall": macro_recall,
                    "val_f1": macro_f1,
                    "images_per_second": round(trained.images_per_second, 1),
                }
                run.record(row, [learning_rate(step) for step in range((epoch - 1) * steps, epoch * steps)])
                log.info(terminal.describe_epoch(row, training.epochs, better))

        # The test split is used here, once, with the weights of the best validation epoch.
        model.load_state_dict(load_file(job.folder / BEST))
        tested = evaluate(model, data.test, images, batch_size, precision)
        summary = write_test(job.folder, tested, data.classes)
        run.status["test_acc"] = summary["accuracy"]
        write_figures(job.folder, model, data, device)
        best_acc = run.status["best_val_acc"]
        log.info(f"best      epoch {run.status['best_epoch']}: validation accuracy {best_acc:.2%}")
        per_class = summary["mean_class_accuracy"]
        log.info(
            f"test      accuracy {tested.accuracy:.2%}, mean of the classes {per_class:.2%}, loss {tested.loss:.4f}"
        )

    terminal.show_pairs(run.next_steps())
    return best_acc


if __name__ == "__main__":
    raise SystemExit(launch(train, "config", TrainConfig))
