"""How each kind of component stands in the config tree: its folder, its form, and what a run fills in by itself."""

from __future__ import annotations

from typing import NamedTuple

from accelerator.errors import ConfigError, did_you_mean
from accelerator.utilities.signatures import Signature

# Kinds whose functions are the component: what they are called with later is not for a config to give.
_CALLED_LATER = ("loss", "metric")


class Kind(NamedTuple):
    """A kind of component.

    Attributes:
        name: as in the registry.
        folder: below ``configs``.
        use: what is typed to take an option of it; ``{}`` stands for the option.
        package: of its files, where that is not the folder's own name.
        form: ``section``: the file is the component; ``entries``: it holds components, each under a name.
        offered: arguments that the run fills in.
        beside: keys of its section that are no argument of the component, with their values.
    """

    name: str
    folder: str
    use: str
    package: str | None = None
    form: str = "section"
    offered: frozenset[str] = frozenset()
    beside: tuple[tuple[str, str], ...] = ()

    def settable(self, signature: Signature) -> Signature:
        """The part of a signature that a config sets."""
        first = 2 if self.name in _CALLED_LATER and not signature.is_class else 0
        return signature.without(self.offered, first)


_FACTS = frozenset({"input_shape", "output_shape", "num_classes"})
_TRAINING = "training_components"

KINDS = {
    kind.name: kind
    for kind in (
        Kind("model", "model", "accelerator train model={}", offered=_FACTS),
        Kind("data", "data", "accelerator train data={}"),
        Kind("loss", f"{_TRAINING}/loss", "accelerator train loss={}", "loss"),
        Kind(
            "optimizer",
            f"{_TRAINING}/optimizer",
            "accelerator train optimizer={}",
            "optimizer",
            offered=frozenset({"params"}),
        ),
        Kind(
            "scheduler",
            f"{_TRAINING}/scheduler",
            "accelerator train scheduler={}",
            "scheduler",
            # A resumed run sets `last_epoch` by itself.
            offered=frozenset({"optimizer", "total_steps", "last_epoch"}),
            beside=(("interval", "epoch # epoch or step, both counted in work of the full network"),),
        ),
        Kind("transform", f"{_TRAINING}/transform", "accelerator train transform={}", "transform", "entries"),
        Kind("metric", "metrics", "accelerator train metrics={}", form="entries", offered=frozenset({"num_classes"})),
        Kind("callback", "callbacks", "accelerator train callbacks=[default,{}]", form="entries"),
        Kind("acceleration", "acceleration", "accelerator accelerate load=last acceleration={}"),
        Kind("multilevel", "multilevel", "accelerator train multilevel={}"),
        Kind("engine", "engine", "accelerator train engine={}", offered=frozenset({"memory_limit_gb"})),
    )
}


def kind_of(word: str) -> Kind:
    """The kind that was typed.

    Raises:
        ConfigError: there is none of that name.
    """
    singular = {kind.folder.rpartition("/")[2]: name for name, kind in KINDS.items()}
    if word in KINDS or word in singular:
        return KINDS[singular.get(word, word)]
    known = [*KINDS, "domain", "experiment"]
    raise ConfigError(f"there is no kind of component '{word}'{did_you_mean(word, known)}")
