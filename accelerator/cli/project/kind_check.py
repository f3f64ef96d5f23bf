"""Whether a class can be of a kind at all, told from what it derives from; nothing is imported.

Only what is certain is told: a class that derives from one whose source is not found may be anything.
"""

from __future__ import annotations

import ast

from accelerator.cli.project.kinds import Kind
from accelerator.errors import ConfigError
from accelerator.utilities.source_code import Found, SourceCode

# What the members of a kind derive from, and those of no other kind do.
_BASES = {
    "optimizer": "torch.optim.Optimizer",
    "scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "callback": "accelerator.runtime.callbacks.base.Callback",
}
_PLAIN = frozenset({"object", "ABC", "Exception"})


def wrong_kind(kind: Kind, path: str, source: SourceCode) -> str | None:
    """Why what stands at a path is no component of a kind; None if it may be one.

    Args:
        kind: what it is to be.
        path: ``package.module.Name`` or ``module:Name``.
        source: through which files are read.
    """
    try:
        found = source.find(path)
    except ConfigError:
        return None
    if not isinstance(found.node, ast.ClassDef):
        return None
    above, whole = _above(found, source)
    paths = {each.path for each in above[1:]}
    bases = {name: at for name, base in _BASES.items() if (at := _path_of(base, source)) is not None}
    if other := [name for name, base in bases.items() if name != kind.name and base in (*paths, found.path)]:
        return f"{found.path} is of the kind '{other[0]}', and no {kind.name}"
    if kind.name in bases and bases[kind.name] not in paths and whole:
        return f"{found.path} is no {kind.name}: it does not derive from {_BASES[kind.name]}"
    if kind.name == "optimizer" and (step := _step(above)) is not None and _needs_more(step):
        return (
            f"{found.path} needs a closure that computes the loss anew in each step, which runs do not give: take "
            "another optimizer"
        )
    return None


def _path_of(base: str, source: SourceCode) -> str | None:
    """Where a base is defined; None where something else stands in its place, such as a torch.py in the project."""
    try:
        return source.find(base).path
    except ConfigError:
        return None


def _above(found: Found, source: SourceCode) -> tuple[list[Found], bool]:
    """A class and those above it, nearest first, and whether all of them were found."""
    above, waiting, whole = [], [found], True
    while waiting:
        at = waiting.pop(0)
        if any(each.path == at.path for each in above):
            continue
        above.append(at)
        assert isinstance(at.node, ast.ClassDef)
        for node in at.node.bases:
            base = source.resolve(at.module, node)
            if isinstance(base, Found) and isinstance(base.node, ast.ClassDef):
                waiting.append(base)
            else:
                whole = whole and ast.unparse(node).rpartition(".")[2] in _PLAIN
    return above, whole


def _step(above: list[Found]) -> ast.FunctionDef | None:
    """The method ``step`` that a class has, its own or the nearest above it; the last of several overloads."""
    for found in above:
        steps = [node for node in found.node.body if isinstance(node, ast.FunctionDef) and node.name == "step"]
        if steps:
            return steps[-1]
    return None


def _needs_more(step: ast.FunctionDef) -> bool:
    """Whether it cannot be called without an argument."""
    return len(step.args.posonlyargs) + len(step.args.args) - 1 > len(step.args.defaults)
