"""Hugging Face's Trainer trains a model of zoo: it asks for a model that returns its loss, and these ten lines do that.

python recipes/examples/hf_trainer.py        needs zoo[train] and transformers
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

import zoo
from zoo.training.data.digits import Digits


class WithLoss(nn.Module):
    """A classifier of zoo as the Trainer wants it: called by names, its loss first."""

    def __init__(self, model: nn.Module, aux_weight: float = 0.01):
        super().__init__()
        self.model, self.aux_weight = model, aux_weight

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits, aux = self.model(pixel_values, return_aux=True)
        balance = sum(value for name, value in aux.items() if name.startswith("loss/"))  # of a mixture of experts
        return {"loss": F.cross_entropy(logits, labels) + self.aux_weight * balance, "logits": logits}


def main(folder: str = "runs/hf_trainer", steps: int = 400) -> float:
    """Train on scikit-learn's digits, save the model, and give the accuracy on the test images."""
    splits = {
        name: [{"pixel_values": x, "labels": y} for x, y in zip(split.images, split.labels, strict=True)]
        for name, split in Digits().load().items()
    }
    torch.manual_seed(0)
    model = zoo.create_model(
        "mixer_s16_224", img_size=8, patch_size=2, in_chans=1, num_classes=10, dim=64, depth=3, channel_mixer="moe"
    )
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=32,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        logging_steps=100,
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
    )
    trainer = Trainer(
        WithLoss(model),
        arguments,
        train_dataset=splits["train"],
        eval_dataset=splits["test"],
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    trainer.train()
    zoo.save_pretrained(model, f"{folder}/model")  # zoo.create_model(f"local-dir:{folder}/model") opens it
    return trainer.evaluate()["eval_accuracy"]


if __name__ == "__main__":
    print(f"test accuracy {main(*sys.argv[1:2]):.4f}")
