"""A LightningModule of twenty lines around a model of zoo.

python recipes/examples/lightning_module.py        needs zoo[train] and lightning
"""

import sys

import lightning
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.training.data.digits import Digits


class Classifier(lightning.LightningModule):
    """A classifier of zoo, with the auxiliary losses that it returns."""

    def __init__(self, name: str, lr: float = 3e-3, aux_weight: float = 0.01, **kwargs):
        super().__init__()
        self.model, self.lr, self.aux_weight = zoo.create_model(name, **kwargs), lr, aux_weight

    def training_step(self, batch, number):
        logits, aux = self.model(batch[0], return_aux=True)
        balance = sum(value for name, value in aux.items() if name.startswith("loss/"))
        return F.cross_entropy(logits, batch[1]) + self.aux_weight * balance

    def test_step(self, batch, number):
        self.log("accuracy", (self.model(batch[0]).argmax(-1) == batch[1]).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main(folder: str = "runs/lightning", steps: int = 400) -> float:
    """Train on scikit-learn's digits, save the model, and give the accuracy on the test images."""
    loaders = {
        name: DataLoader(TensorDataset(split.images, split.labels), batch_size=32, shuffle=name == "train")
        for name, split in Digits().load().items()
    }
    lightning.seed_everything(0)
    sizes = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10, "dim": 64, "depth": 3}
    module = Classifier("mixer_s16_224", channel_mixer="moe", **sizes)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_steps=steps, default_root_dir=folder, **quiet)
    trainer.fit(module, loaders["train"])
    zoo.save_pretrained(module.model, f"{folder}/model")  # zoo.create_model(f"local-dir:{folder}/model") opens it
    return trainer.test(module, loaders["test"], verbose=False)[0]["accuracy"]


if __name__ == "__main__":
    print(f"test accuracy {main(*sys.argv[1:2]):.4f}")
