"""Index tables that modules make of their sizes."""

from torch import Tensor, nn


class Tables(nn.Module):
    """A module with tables of whole numbers that follow from its sizes: they move with it, and are no buffers.

    Whoever averages the buffers of models would average these too, and torch cuts off what an average of whole numbers
    is by rounding: an index of 5 becomes 4. Nor need they be sent to other processes.

    Attributes:
        tables: Names of the tables.
    """

    tables: tuple[str, ...] = ()

    def set_tables(self, **tables: Tensor) -> None:
        """Put tables in the place of all that there were."""
        self.tables = tuple(tables)
        for name, table in tables.items():
            setattr(self, name, table)

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        self.set_tables(**{name: fn(getattr(self, name)) for name in self.tables})
        return self
