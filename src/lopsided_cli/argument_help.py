"""Help of positional arguments, which typer 0.20 and click 8.5 lose between them."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from typer.core import TyperArgument, TyperCommand


class CommandWithArgumentHelp(TyperCommand):
    """A verb whose `--help` says what its positional arguments are.

    typer sets an argument's help before it calls click's constructor, which since 8.5 has a help of its own and sets it
    to None. Flower wants such an old typer. The help is taken from the verb's annotations once more.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        lacking = [each for each in self.params if isinstance(each, TyperArgument) and each.help is None]
        if lacking and self.callback is not None:
            # Of the verb itself: what wraps it takes any arguments.
            hints = typing.get_type_hints(inspect.unwrap(self.callback), include_extras=True)
            for argument in lacking:
                argument.help = hints[argument.name].__metadata__[0].help
