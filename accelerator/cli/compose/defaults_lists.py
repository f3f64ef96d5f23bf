"""Faults in defaults lists that Hydra does not raise as its own: a file that chooses itself, a group set to null."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from hydra.errors import HydraException


class CircleError(HydraException):
    """A config file chooses itself, or one that chooses it."""


class NoOptionError(HydraException):
    """A group is given what cannot be an option's name."""


@contextmanager
def faults_told() -> Iterator[None]:
    """While inside, Hydra raises what is wrong with a defaults list as a `HydraException`."""
    from hydra._internal import config_loader_impl

    follow = config_loader_impl.create_defaults_list

    def followed(*arguments: Any, **named: Any) -> Any:
        try:
            return follow(*arguments, **named)
        except RecursionError as error:
            if (told := _circle(error)) is None:
                raise
        except ValueError as error:
            if str(error).startswith("Config group override must be"):  # optimizer=null, model=0.1
                raise NoOptionError("a group takes the name of an option, or of several in a list") from error
            raise HydraException(str(error)) from error
        raise CircleError(told)  # outside of the handler: the thousand frames before it say nothing more

    with patch.object(config_loader_impl, "create_defaults_list", followed):
        yield


def _circle(error: RecursionError) -> str | None:
    """The files of the circle in a sentence; None if it was something else that had no end."""
    followed = [
        frame.f_locals["root"].node.get_config_path()
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "_create_defaults_tree_impl"
    ]
    last = next((place for place, name in enumerate(followed) if name in followed[:place]), None)
    if last is None:
        return None
    files = [f"configs/{name}.yaml" for name in followed[followed.index(followed[last]) : last + 1]]
    if len(files) == 2:
        return f"{files[0]} names itself in its defaults list: take it out there"
    return f"defaults lists lead in a circle ({' → '.join(files)}): take one of these out of the list that names it"
