"""A structure as SVG: the chain of a model, then each kind of its blocks, with shortcuts beside branches."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from zoo.tools.atlas.structure import Block, Box, Structure

LETTER, LINE = 7.2, 16  # pixels of a letter in a fixed-width font of 12, and from line to line
ROOM, GAP, SHORTCUT = 38, 18, 30  # letters of a line; pixels between boxes, and from a branch to its shortcut
MARGIN, APART = 24, 56  # pixels around the drawing, and between its columns
INK, PAPER = "#24292f", "#ffffff"
FILLS = {
    "stem": "#d5e8d4",
    "downsample": "#d5e8d4",
    "shortcut": "#d5e8d4",
    "embed": "#d5e8d4",
    "stage": "#f0f0f0",
    "token_mixer": "#cfe2ff",
    "channel_mixer": "#ffe2c6",
    "act": "#fff3bf",
    "norm": "#e8e8e8",
    "scale": "#fff3bf",
    "head": "#e6d8f3",
}


def draw(structure: Structure, title: str) -> str:
    """A drawing as the text of an SVG file.

    Args:
        structure: What is drawn.
        title: What it says above, and to who hears it and does not see it.
    """
    columns, x = [_chain(structure.chain)], float(MARGIN)
    columns += [_block(block) for block in structure.blocks]
    height = 3 * MARGIN + max(column.y for column in columns)
    shapes = [f'<text x="{MARGIN}" y="{MARGIN + 4}" font-weight="bold">{escape(title)}</text>']
    for column in columns:
        shapes.append(f'<g transform="translate({x + column.left:g} {2 * MARGIN})">{"".join(column.shapes)}</g>')
        x += column.left + column.right + APART
    width = max(x - APART + MARGIN, 2 * MARGIN + LETTER * len(title))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}" '
        f'font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="12" fill="{INK}">'
    )
    paper = f'<rect width="{width:g}" height="{height:g}" rx="8" fill="{PAPER}"/>'
    return "\n".join([head, paper, *shapes, "</svg>", ""])


@dataclass
class _Column:
    """Shapes around a vertical line at x = 0, from y = 0 down; and how far they reach to both sides."""

    y: float = 0.0
    left: float = 0.0
    right: float = 0.0
    shapes: list[str] = field(default_factory=list)

    def words(self, text: str) -> None:
        """A title of one or more lines."""
        for line in _lines(text):
            self.shapes.append(f'<text y="{self.y + LINE - 4:g}" text-anchor="middle">{escape(line)}</text>')
            self._reach(LETTER * len(line) / 2)
            self.y += LINE

    def line(self, length: float = GAP) -> None:
        """The way on, downwards."""
        self.shapes.append(_path(f"M0 {self.y:g} v{length:g}"))
        self.y += length

    def box(self, box: Box, x: float = 0.0) -> None:
        """A box on the line, or beside it, where it moves nothing on."""
        lines = _lines(box.text)
        width, height = _width(box), LINE * len(lines) + 10
        top = self.y if x == 0 else self.y - height - GAP
        look = f'fill="{FILLS.get(box.role, PAPER)}" stroke="{INK}"' if box.role != "end" else 'fill="none"'
        self.shapes.append(
            f'<rect x="{x - width / 2:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="4" {look}>'
            f"<title>{escape(box.role.replace('_', ' '))}</title></rect>"
        )
        for number, line in enumerate(lines):
            y = top + 5 + LINE * number + 12
            self.shapes.append(f'<text x="{x:g}" y="{y:g}" text-anchor="middle">{escape(line)}</text>')
        self._reach(width / 2 - x, width / 2 + x)
        self.y += height if x == 0 else 0

    def add(self, top: float, side: float, factor: Box | None) -> None:
        """The sum of what comes down here, and of a shortcut that left the line at `top`."""
        radius = 8
        self.shapes.append(_path(f"M0 {top:g} H{side:g} V{self.y + radius:g} H{radius}"))
        self._reach(side)
        if factor is not None:
            self.box(factor, side)
        middle = self.y + radius
        self.shapes.append(f'<circle cy="{middle:g}" r="{radius}" fill="{PAPER}" stroke="{INK}"/>')
        self.shapes.append(_path(f"M-4 {middle:g} h8 M0 {middle - 4:g} v8"))
        self.y += 2 * radius

    def _reach(self, left: float, right: float | None = None) -> None:
        self.left, self.right = max(self.left, left), max(self.right, left if right is None else right)


def _chain(boxes: Sequence[Box]) -> _Column:
    column = _Column()
    for number, box in enumerate(boxes):
        if number:
            column.line()
        column.box(box)
    return column


def _block(block: Block) -> _Column:
    column = _Column()
    column.words(block.places)
    column.y += 6
    for branch in block.branches:
        column.line(GAP / 2)
        top = column.y
        column.line(GAP)
        widest = max(map(_width, branch.boxes))
        for box in branch.boxes:
            column.box(box)
            column.line()
        room = 0 if branch.shortcut is None else LETTER * len(branch.shortcut.text) / 2 + 8
        if branch.residual:
            column.add(top, widest / 2 + SHORTCUT + room, branch.shortcut)
    column.line()
    return column


def _width(box: Box) -> float:
    return LETTER * max(map(len, _lines(box.text))) + 16


def _path(way: str) -> str:
    return f'<path d="{way}" fill="none" stroke="{INK}"/>'


def _lines(text: str) -> list[str]:
    return textwrap.wrap(text, ROOM, break_on_hyphens=False) or [""]
