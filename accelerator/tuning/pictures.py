"""What a study by Optuna shows: how it got better, and what mattered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.tuning.choosing import quiet

if TYPE_CHECKING:
    from optuna import Study

ENOUGH = 4  # trials that ran to their end, below which nothing is said of importance


def importances(study: Study, objectives: Sequence[str]) -> dict[str, dict[str, float]]:
    """How much of the variance of each objective each parameter explains, by fANOVA.

    Hutter, Hoos, Leyton-Brown (2014), *An Efficient Approach for Assessing Hyperparameter Importance*. Parameters that
    are tried under a condition are left out: too few trials have them all.

    Returns:
        Shares that sum to 1, by objective and parameter; nothing where there is too little to tell.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < ENOUGH:
        return {}
    found = {}
    for index, name in enumerate(objectives):
        with quiet():
            try:
                shares = get_param_importances(
                    study, evaluator=FanovaImportanceEvaluator(seed=0), target=lambda trial, i=index: trial.values[i]
                )
            except (RuntimeError, ValueError):  # all values alike, or no parameter that all trials have
                continue
        if shares:
            found[name] = {parameter: float(share) for parameter, share in shares.items()}
    return found


def draw(study: Study, objectives: Sequence[str], folder: Path) -> list[Path]:
    """Draw what the study has to show.

    Args:
        study: at its end.
        objectives: their names.
        folder: where the pictures go.

    Returns:
        The files written.
    """
    from optuna.trial import TrialState
    from optuna.visualization import matplotlib as pictures

    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if not complete:
        return []
    written = []
    several = len(objectives) > 1
    for index, name in enumerate(objectives):
        target = (lambda trial, i=index: trial.values[i]) if several else None
        suffix = f"_{name.replace('/', '_')}" if several else ""
        written += _drawn(
            folder / f"optimization_history{suffix}.png",
            lambda target=target, name=name: pictures.plot_optimization_history(study, target=target, target_name=name),
        )
        if len(complete) >= ENOUGH:
            written += _drawn(
                folder / f"importances{suffix}.png",
                lambda target=target, name=name: pictures.plot_param_importances(
                    study, target=target, target_name=name
                ),
            )
    if several and len(objectives) <= 3:
        written += _drawn(
            folder / "pareto_front.png", lambda: pictures.plot_pareto_front(study, target_names=list(objectives))
        )
    if any(trial.intermediate_values for trial in trials):
        written += _drawn(folder / "reports.png", lambda: pictures.plot_intermediate_values(study))
    return written


def _drawn(path: Path, plot: Callable[[], Any]) -> list[Path]:
    """The file, if the study has what the plot needs."""
    import matplotlib as mpl
    from matplotlib import pyplot

    with quiet(), mpl.rc_context():
        before = pyplot.get_backend()
        pyplot.switch_backend("agg")
        try:
            figure = plot().figure
            figure.set_size_inches(8, 5)
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=120, bbox_inches="tight")
        except (RuntimeError, ValueError):
            return []
        finally:
            pyplot.close("all")
            pyplot.switch_backend(before)
    return [path]
