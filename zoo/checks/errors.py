"""What an error says: names against those there are, values made short and printable."""

import difflib
import reprlib
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

MANY = 40  # an error lists all known names if there are no more

NAME = 200  # letters of an unknown name that are compared with the known ones


class _Short(reprlib.Repr):
    def repr_int(self, value, level):
        try:
            return super().repr_int(value, level)
        except ValueError:  # more digits than Python writes
            return f"a whole number of {value.bit_length()} bits"


def shown(value: Any, most: int = 200) -> str:
    """A value as an error shows it: short whatever it is, and with nothing in it that a terminal would obey.

    Example:
        >>> print(shown(chr(27) + "[31mred"), len(shown("x" * 10**6)) < 210, shown([1, 2.5, None]))
        '\\x1b[31mred' True [1, 2.5, None]
    """
    short = _Short()
    short.maxstring = short.maxother = most
    short.maxlong = 60
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = 12
    return printable(short.repr(value), most)


def printable(text: Any, most: int = 1000) -> str:
    """A text as an error shows it: what does not print is escaped, and from the middle of a long one something is cut.

    Example:
        >>> print(printable(f"a{chr(27)}]0;b"), printable("x" * 30, 9))
        a\\x1b]0;b xxx … xxx
    """
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[: 20 * most])
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]} … {text[-half:]}"


def some(items: Iterable[Any], most: int = 8, *, between: str = ", ") -> str:
    """The first of some names or findings, as an error lists them, and how many there are if that is not all.

    Example:
        >>> print(some(["a", f"b{chr(27)}", "c", "d"], 2), "|", some(["head", "norm"]))
        a, b\\x1b, … (4 in all) | head, norm
    """
    items = list(items)
    more = f"{between}… ({len(items)} in all)" if len(items) > most else ""
    return between.join(printable(item, 100) for item in items[:most]) + more


def unknown(problem: str, name: str, known, title: str = "known", *, count: int = 1, see: str | None = None) -> str:
    """A message for an unknown name: the problem, what is nearest, and all there are, if they are not too many.

    Example:
        >>> unknown("model 'vti'", "vti", ["vit", "gmlp"])
        "model 'vti' is unknown; did you mean 'vit'? Known: gmlp, vit"

    Args:
        problem: The thing and its name; " is unknown" is added unless it says itself what there is not.
        name: The name that is unknown.
        known: The names there are.
        title: What the list of them is called.
        count: How many of the nearest are shown.
        see: A call that lists the names, in place of the list.
    """
    known = sorted(map(str, known))
    near = [shown(n, 100) for n in nearest(str(name)[:NAME], known, count)]
    hint = f"; did you mean {' or '.join(filter(None, (', '.join(near[:-1]), near[-1])))}?" if near else "."
    problem = printable(problem if " has no " in problem else f"{problem} is unknown", 700)
    if see is not None:
        return f"{problem}{hint} {see} lists what there is"
    return f"{problem}{hint} {title.capitalize()}: {printable(some(known, MANY) or 'none', 900)}"


def nearest(name: str, known: Sequence[str], count: int) -> list[str]:
    """The names most like an unknown one, whatever their case; first those that go on where it ends.

    Example:
        >>> nearest("KAT", ["kan", "gelu", "kat_tiny"], 2)
        ['kat_tiny', 'kan']
    """
    lower = {n.lower(): n for n in known}
    begun = sorted((n for n in lower if name and n.startswith(name.lower())), key=len)
    close = difflib.get_close_matches(name.lower(), lower, count, 0.5)
    return [lower[n] for n in dict.fromkeys((*begun, *close))][:count]


def in_a_line(error: Exception, package: str = "") -> str:
    """An error of a file that was run, in one line, with the place where it arose.

    Args:
        error: What was caught.
        package: Name of a package; the place is then the last in a module of it, if any is, and not what that called.
    """
    places = [
        (f"{frame.f_globals.get('__name__')}.", frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    own = [place for place in places if package and place[0].startswith(f"{package}.")]
    _, code, line = (own or places)[-1]
    place = "" if isinstance(error, SyntaxError) else f" ({code.co_filename}, line {line})"
    return f"{type(error).__name__}: {error}{place}"
