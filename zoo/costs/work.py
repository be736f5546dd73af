"""What one operator, or many, did: arithmetic and bytes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Arithmetic and traffic of some calls.

    Attributes:
        calls: Number of them.
        macs: Multiply-accumulates.
        other_flops: Operations on numbers that are no multiply-accumulates, see `zoo.costs.elementwise`.
        bytes_read, bytes_written: What each operator reads and writes as if alone: no cache, no fusion.
    """

    calls: float = 0
    macs: float = 0
    other_flops: float = 0
    bytes_read: float = 0
    bytes_written: float = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(self._numbers(), other._numbers(), strict=True)))

    def __truediv__(self, samples: int) -> "Work":
        """That of one sample; the calls stay, since they work on all of them."""
        calls, *rest = self._numbers()
        return Work(calls, *(round(number / samples) for number in rest))

    def _numbers(self) -> tuple[float, ...]:
        return self.calls, self.macs, self.other_flops, self.bytes_read, self.bytes_written

    @property
    def flops(self) -> float:
        """All arithmetic: two for a multiply-accumulate, and the others."""
        return 2 * self.macs + self.other_flops

    @property
    def bytes(self) -> float:
        """Read and written."""
        return self.bytes_read + self.bytes_written

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, in FLOPs a byte; 0 where nothing is moved."""
        return self.flops / self.bytes if self.bytes else 0.0

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """The least time on a machine of such peaks, by the roofline: that of the arithmetic or of the traffic."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)
