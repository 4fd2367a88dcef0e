"""The weights that a run starts from: found, loaded, frozen, adapted; and what the log says about them."""

from .config.initial import Origin, find_run
from .config.overrides import show_value
from .config.schema import TrainConfig
from .engine.memory import count_parameters
from .machine.disk import short_path
from .model import VisionTransformer
from .pretrained.files import read_weights
from .pretrained.freeze import freeze, list_untrained
from .pretrained.load import LoadReport, load_weights, match_head
from .pretrained.lora import add_adapters
from .pretrained.published import Published, find_published
from .run.log import log, log_lines
from .run.weights import InitialWeights, find_weights
from .seeding import generator_for


def load_initial_weights(
    model: VisionTransformer, config: TrainConfig, classes: list[str], resumed: bool = False
) -> None:
    """Load `init.weights` into the model, unless a checkpoint follows (resumed); freeze it, and add adapters."""
    init, report = config.init, None
    if init.weights and not resumed:
        report = _load_initial_weights(model, config, classes)
    if init.layer_decay and not init.weights:
        log.warning("init.layer_decay without init.weights: the first layers are random and learn slowest")
    _freeze(model, config)
    if not resumed and (random := list_untrained(model, report)):
        log.warning(f"frozen at random values, as nothing was loaded for them: {', '.join(random)}")


def _load_initial_weights(model: VisionTransformer, config: TrainConfig, classes: list[str]) -> LoadReport:
    found, published = _find_weights(config)
    weights, origin = read_weights(found.path), found.origin
    if config.model.zero_init_head:
        tensors, fresh_head, head = weights.tensors, "model.zero_init_head=true", ""
    else:
        tensors, fresh_head, head = match_head(weights.tensors, model, found.classes, classes)
    name = short_path(found.path) if published is None else origin.name
    source = f"{name} ({weights.place})" if weights.place else name
    resample = origin.resamples_patches and origin.model.get("stem") == config.model.stem
    report = load_weights(model, tensors, source, origin.grid, config.init.strict, fresh_head, resample)
    lines = [*report.lines(), head, *(published.lines(config) if published else [])]
    log_lines(f"init      {line}" for line in lines if line)
    if published is None:
        log.info(f"init      {_compare_preprocessing(config, origin)}")
    else:
        line, known = published.describe_statistics(config)
        (log.info if known else log.warning)(f"init      {line}")
    return report


def _find_weights(config: TrainConfig) -> tuple[InitialWeights, Published | None]:
    """Return the initial weights, and what is known about them besides if they are of no run."""
    wanted = config.init.weights
    assert wanted is not None
    folder = find_run(wanted)
    if folder is not None:
        return find_weights(wanted, folder), None
    published = find_published(wanted, config.init.strict)
    return InitialWeights(published.path, published.origin, published.card.classes), published


def _compare_preprocessing(config: TrainConfig, origin: Origin) -> str:
    """Return how images are prepared, and whether the run's weights were trained with that."""
    keys = ("mean", "std", "interpolation", "resize")
    values = {key: getattr(config.dataset, key) for key in keys}
    shown = " ".join(f"dataset.{key}={show_value(value)}" for key, value in values.items() if value is not None)
    other = [key for key in keys if origin.dataset.get(key) != values[key]]
    told = f"but for {', '.join(other)} as in the weights' run" if other else "as in the weights' run"
    return f"preprocessing {told}: {shown}"


def _freeze(model: VisionTransformer, config: TrainConfig) -> None:
    rank, parameters = config.init.lora_rank, count_parameters(model)
    trainable = freeze(model, config.init.freeze if rank is None else "backbone")
    if rank is not None:
        adapters = add_adapters(model, rank, generator_for("lora", config.seed))
        trained = f"{adapters:,} of adapters of rank {rank} and {trainable:,} of the head"
        log.info(f"lora      {trained} are trained; {parameters - trainable:,} parameters are frozen")
    elif trainable < parameters:
        log.info(f"frozen    {parameters - trainable:,} parameters; {trainable:,} are trained")
