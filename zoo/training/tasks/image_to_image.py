"""What the tasks that restore images have in common."""

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.training.data.splits import Split
from zoo.training.tasks.base import Task, check_images
from zoo.training.tasks.meter import Meter, mean, value_of

MOST = 100.0  # dB, of an image that is restored exactly


class ImageToImage(Task):
    """Images in [0, 1] from what a task's `example` makes of them, by mean squared error; measured by `psnr`.

    It is in dB, the mean over the images of that of the output clamped to [0, 1], of each at most 100.
    """

    reports = ("psnr",)
    higher_is_better = {"psnr": True}

    def check(self, model: nn.Module, split: Split, head: str | None = None) -> None:
        check_images(model, split)
        if head is not None:
            raise ValueError(f"{head} gives logits, not images: {self.name} is no task among several")
        if model.num_classes != 0:
            raise ValueError(f"the model gives {model.num_classes} logits, not images: set model.kwargs.head=image")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def meter(self, num_classes: int) -> Meter:
        return ImageMeter()


class ImageMeter(Meter):
    """Of images and those that were wanted, both ``(B, C, H, W)`` in [0, 1]."""

    def __init__(self):
        super().__init__(psnr=mean())

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        from torchmetrics.functional.image import peak_signal_noise_ratio

        pixels = tuple(range(1, outputs.ndim))
        options = {"data_range": 1.0, "dim": pixels, "reduction": "none"}
        self.parts["psnr"].update(peak_signal_noise_ratio(outputs.clamp(0, 1), targets, **options).clamp(max=MOST))

    def compute(self) -> dict[str, float]:
        return {"psnr": value_of(self.parts["psnr"])}
