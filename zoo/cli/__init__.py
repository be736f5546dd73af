"""The command ``zoo``. Each file of this folder is one of its commands; what they share is in `zoo.cli.support`.

A file ``zoo/cli/<command>.py`` has a function ``run``: its docstring is the help, its parameters are the arguments, and
what it needs beyond typer and the standard library it imports within, so that help and completion stay fast. It may
have an ``EXAMPLE``, a line to type.

Nothing else is defined here: the names of some commands are those of Python's own functions.
"""

from zoo.cli.support.app import application, commands, main

__all__ = ["application", "commands", "main"]
