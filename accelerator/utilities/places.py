"""Places in the user's code: where a module fails while it is imported, where a class or function begins."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OURS = Path(__file__).resolve().parents[1]


def where_raised(error: BaseException) -> str:
    """The place of an import's failure, at its root, as ``(file, line 3)``; "" where the error tells it itself.

    It is the last line of the user's that led there: not one of the import machinery's, of this package's or, if a
    file of the working directory called it, of a library's.
    """
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, SyntaxError):
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    frames = [frame for frame in frames if not Path(frame.filename).is_relative_to(_OURS)]
    own = [frame for frame in frames if _is_here(Path(frame.filename))] or frames
    return f"({own[-1].filename}, line {own[-1].lineno})" if own else ""


def where_defined(target: Callable[..., Any]) -> str:
    """Where a class or function begins, as ``module:Name (file, line 3)``; without the place where it has no source."""
    path = f"{target.__module__}:{target.__qualname__}"
    try:
        file = Path(inspect.getsourcefile(target) or "")
        line = inspect.getsourcelines(target)[1]
    except (OSError, TypeError):
        return path
    shown = file.relative_to(Path.cwd()) if _is_here(file) else file
    return f"{path} ({shown}, line {line})"


def _is_here(file: Path) -> bool:
    return file.is_relative_to(Path.cwd()) and "site-packages" not in file.parts
