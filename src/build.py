"""Build model and trainer from a configuration and its data, and restore them from a run."""

import math
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from .augment.pipeline import Augmentation, stored_size
from .config.features import describe_changing, freezes_backbone, list_random
from .config.resolve import complete, default_patch_size
from .config.schema import TrainConfig, TrainingConfig
from .config.size import estimate_parameters
from .data.images import Preprocessing, Track
from .data.load import Data, Split
from .distributed.models import wrap_model
from .distributed.torchrun import read_place
from .distributed.world import World, join_world, local_device
from .engine.evaluation import count_gflops
from .engine.features import replace_images
from .engine.memory import count_parameters, estimate_memory, is_out_of_memory
from .engine.trainer import Progress, Trainer, balanced_weights
from .engine.trial import Work, choose_kernels, compile_blocks, use_kernels
from .machine.devices import choose_algorithms, choose_device
from .machine.kernels import PRECISIONS, Wanted, choose_precision
from .machine.memory import format_bytes, keep_freed_memory, reset_peak_memory, total_memory
from .model import VisionTransformer
from .optim import ExponentialMovingAverage, LearningRate, build_optimizer
from .run.checkpoint import explain_damage
from .run.files import LAST
from .run.limits import still_ends
from .run.log import log, log_lines
from .run.record import Run
from .run.resume import describe_changes

ALONE = World(0, 0, 1)


def open_device(config: TrainConfig) -> tuple[torch.device, World]:
    """Choose the device, and join the processes started by torchrun.

    Raises ValueError if the device does not exist or does not support the configuration.
    """
    training = config.training
    device, reason = choose_device(config.device)
    device = local_device(device)
    choose_algorithms(training.deterministic)
    reset_peak_memory(device)
    keep_freed_memory()
    world = join_world(device)
    processes = f", {world.size} processes ({training.strategy})" if world.size > 1 else ""
    log.info(f"device    {device}{processes} ({reason})")
    if world.size == 1 and training.strategy == "fsdp":
        log.warning("training.strategy=fsdp has no effect in one process; torchrun starts several")
    return device, world


def choose_stored_size(config: TrainConfig) -> tuple[int, int]:
    """Return the (height, width) at which training images are stored; the augmentation crops from them."""
    assert config.augmentation.random_resized_crop is not None  # set by `resolve`
    return stored_size(config.model.image_size, config.augmentation.random_resized_crop)


def complete_config(config: TrainConfig, data: Data) -> TrainConfig:
    """Return the configuration with the values that depend on the data: classes, channels, statistics, batch size."""
    look = data.preprocessing
    levels = None if look.value_range is None else list(look.value_range)
    return complete(config, len(data.train), len(data.classes), look.channels, list(look.mean), list(look.std), levels)


def build_augmentation(config: TrainConfig, preprocessing: Preprocessing) -> Augmentation:
    """Build the augmentation of a complete configuration, for images of this preprocessing."""
    parts = asdict(config.augmentation)
    del parts["mix_off_share"], parts["repeats"]  # for the trainer
    mean, std = preprocessing.mean, preprocessing.std
    assert config.model.num_classes is not None
    return Augmentation(size=preprocessing.size, mean=mean, std=std, num_classes=config.model.num_classes, **parts)


def build_model(config: TrainConfig, device: torch.device, name: str = "") -> VisionTransformer:
    """Build the model on the device; name: of the model, for the log.

    The initial weights are a function of the seed alone.
    """
    _refuse_too_large(config, device)
    torch.manual_seed(config.seed)
    model = VisionTransformer(**asdict(config.model)).to(device)
    model.gradient_checkpointing = config.training.gradient_checkpointing
    gflops = count_gflops(model)
    num_patches = model.num_tokens - model.num_prefix_tokens
    usual = model.patch_size == default_patch_size(model.image_size, config.model.stem)
    patches = f"patches of {model.patch_size} px{', the default for this image size' if usual else ''}"
    log.info(
        f"model     {name}: {count_parameters(model):,} parameters, {model.num_tokens} tokens ({patches}), "
        f"{gflops:.3g} GFLOPs per image"
    )
    if num_patches < 16:
        log.warning(f"only {num_patches} patches per image; a smaller model.patch_size gives more")
    return model


def _refuse_too_large(config: TrainConfig, device: torch.device) -> None:
    """Raise ValueError for a model that this device cannot train, whatever the batch."""
    shards = read_place().size if config.training.strategy == "fsdp" else 1
    needed, total = estimate_memory(config, shards), total_memory(device)
    if needed > total:
        place = "the device" if device.type == "cuda" else "this machine"
        raise ValueError(
            f"a model of {estimate_parameters(config.model):,} parameters needs more than {format_bytes(needed)} to be "
            f"trained on one image, but {place} has {format_bytes(total)}; a smaller model=, "
            "model.embedding_dim, model.num_layers or dataset.image_size, or a larger model.patch_size needs less"
        )


def choose_computing(config: TrainConfig, model: VisionTransformer, num_images: int, world: World) -> TrainConfig:
    """Return the configuration with the precision, kernels, attention, threads and compiling that are fastest here.

    What is configured stays as it is. num_images: of the training split. A run that is continued has all of it in its
    configuration, but for the precision of runs of earlier versions, which was not chosen by trial.
    """
    training, device = config.training, model.head.weight.device
    assert training.epochs is not None and training.patch_dropout is not None
    wanted = Wanted.of(training)
    if wanted.precision == "auto" and (config.resume or training.deterministic):
        wanted = replace(wanted, precision=choose_precision("auto", device))
    if wanted.compile == "auto" and world.size > 1:
        wanted = replace(wanted, compile=False)
    at_once, total = micro_batch_size(training, num_images, world), training.epochs * num_images
    frozen = freezes_backbone(config)
    if frozen and not list_random(config):
        total = num_images  # features are computed once
    limit = math.inf if training.max_minutes is None else 60 * training.max_minutes
    # Nothing goes back through frozen blocks.
    work = Work(at_once, total, training=not frozen, patch_dropout=training.patch_dropout, limit=limit)
    trial = world.broadcast(choose_kernels(model, work, wanted, allowed=not training.deterministic))
    use_kernels(model, trial.chosen)
    log.info(f"compute   {trial.describe()}")
    return replace(config, training=replace(training, **asdict(trial.chosen)))


def micro_batch_size(training: TrainingConfig, num_images: int, world: World) -> int:
    """Return how many images a device computes at once: `training.micro_batch_size`, or its share of a batch."""
    assert training.batch_size is not None
    per_device = -(-min(training.batch_size, num_images) // world.size)
    return min(per_device, training.micro_batch_size or -(-per_device // (training.accumulate or 1)))


def build_trainer(
    config: TrainConfig,
    model: VisionTransformer,
    preprocessing: Preprocessing,
    labels: Tensor,
    world: World = ALONE,
) -> Trainer:
    """Build the trainer of a complete configuration, with a precision, for a model that is on its device.

    labels: (N,) of the training images.
    """
    training, batch_size, device = config.training, config.training.batch_size, model.head.weight.device
    assert batch_size is not None and training.epochs is not None and training.patch_dropout is not None
    steps = -(-len(labels) // batch_size)
    total_steps = training.epochs * steps
    network, ema = _wrap(model, config, world, device)
    return Trainer(
        model=model,
        network=network,
        optimizer=build_optimizer(model, config.optimizer, config.init.layer_decay),
        learning_rate=LearningRate(config.scheduler, config.optimizer.lr, steps, training.epochs),
        augmentation=build_augmentation(config, preprocessing),
        device=device,
        precision=PRECISIONS[choose_precision(training.precision, device)],
        seed=config.seed,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size(training, len(labels), world),
        total_steps=total_steps,
        label_smoothing=training.label_smoothing,
        clip_norm=training.clip_norm,
        class_weights=_build_class_weights(config, labels, device),
        mix_until=config.augmentation.mix_until(total_steps),
        patch_dropout=training.patch_dropout,
        drop_patches_until=round((1 - training.patch_dropout_off_share) * total_steps),
        balanced_sampling=training.sampler == "balanced",
        repeats=config.augmentation.repeats,
        ema=ema,
        world=world,
    )


def _wrap(
    model: VisionTransformer, config: TrainConfig, world: World, device: torch.device
) -> tuple[nn.Module, ExponentialMovingAverage | None]:
    """Return the network to call, distributed and compiled as configured, and the moving average of the model."""
    training = config.training
    # Sharded modules cannot be copied, so the average is made before the model is sharded, and then sharded, too.
    ema = ExponentialMovingAverage(model, training.ema) if training.ema else None
    network = wrap_model(model, world, training.strategy, device)
    if ema and uses_fsdp(config, world):
        wrap_model(ema.model, world, training.strategy, device)
    if training.compile is True:
        compile_blocks(model)
        if ema:
            compile_blocks(ema.model)
    return network, ema


def _build_class_weights(config: TrainConfig, labels: Tensor, device: torch.device) -> Tensor | None:
    if config.training.class_weights is None:
        return None
    assert config.model.num_classes is not None
    return balanced_weights(labels, config.model.num_classes).to(device)


def uses_fsdp(config: TrainConfig, world: World) -> bool:
    return world.size > 1 and config.training.strategy == "fsdp"


def cache_features(
    trainer: Trainer, config: TrainConfig, data: Data, seconds_per_image: float, seconds_used: float, track: Track
) -> Data:
    """Return the data with features of a frozen backbone in place of images, on which the trainer then trains.

    seconds_per_image: of an evaluation; seconds_used: of the run's time; collective.
    """
    if not freezes_backbone(config):
        return data
    minutes, changing = config.training.max_minutes, describe_changing(list_random(config))
    left = math.inf if minutes is None else 60 * minutes - seconds_used
    data, lines = replace_images(trainer, data, changing, seconds_per_image, left, track)
    log_lines([f"features  {line}" for line in lines])
    return data


def restore(trainer: Trainer, run: Run, split: Split, pruned: bool) -> tuple[Progress, str | None]:
    """Load the run's last checkpoint if there is one; return its progress, and what has ended the run early (or None).

    pruned: whether a search may end the run.
    """
    progress, ended = Progress.of_epoch(1, trainer.device), None
    if run.saved and (state := run.load_last()):
        progress = _load_state(trainer, run, state)
        # The same limit ends the run again. Without it, an epoch that was cut short by the time limit continues.
        ended = still_ends(state["ended"], run.config.training, pruned)
    if trainer.micro_batch_reduced:
        run.report_memory(trainer.micro_batch_size, trainer.images_per_device(split))
    if run.saved:
        steps = trainer.steps_per_epoch(split)
        assert isinstance(trainer.learning_rate, LearningRate)
        next_step = (progress.epoch - 1) * steps + progress.step
        for change in describe_changes(run.saved, run.config, trainer.learning_rate, next_step):
            log.info(f"changed   {change}")
        assert run.config.training.epochs is not None
        only_test = ended or progress.epoch > run.config.training.epochs
        where = "the test" if only_test else f"epoch {progress.epoch} after step {progress.step} of {steps}"
        log.info(f"resumed   in {where}")
    if not ended:
        run.discard_from(progress.epoch)
    return progress, ended


def _load_state(trainer: Trainer, run: Run, state: dict[str, Any]) -> Progress:
    """Load a checkpoint's state. Raises ValueError, in one sentence, for that of another model."""
    try:
        return trainer.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(explain_damage(run.folder / LAST, error)) from error


def reload(trainer: Trainer, run: Run, split: Split) -> Progress:
    """Load the last checkpoint again, after a later step ran out of memory."""
    run.report_memory(trainer.micro_batch_size, trainer.images_per_device(split))
    state = run.load_last()
    assert state is not None  # one is saved before the first step
    return trainer.load_state_dict(state)


def gather_model(trainer: Trainer, config: TrainConfig, weights: dict[str, Tensor]) -> VisionTransformer:
    """Return the trainer's model, which has these weights, or, if it is sharded, an unsharded copy on the CPU."""
    if not uses_fsdp(config, trainer.world):
        return trainer.model
    model = VisionTransformer(**asdict(config.model))
    model.load_state_dict(weights)
    return model
