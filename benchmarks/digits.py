"""A small Swin, trained on scikit-learn's digits: a task whose accuracy a benchmark can measure anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import Progress
from edgetx import _torchvision, pipeline
from edgetx.core import Target
from edgetx.errors import UnavailableError
from edgetx.package import Package
from edgetx.runtimes import load

EPOCHS = 40
BATCH = 32
NOTE = (
    "The Swin (timm, patches and windows of 4, embed_dim 32, depths 2 and 2) was trained for "
    f"{EPOCHS} epochs on every other digit of scikit-learn's 1,797, enlarged to 32 x 32; the rest is held "
    "out."
)


@dataclass(frozen=True)
class Digits:
    """The trained model as a float32 package, what it was trained on, and what was held out.

    Attributes:
        package: takes `[batch, 1, 32, 32]`, gives 10 logits.
        training: float32 `[N, 1, 32, 32]`.
        images, labels: of the held-out digits.
    """

    package: Package
    training: Any
    images: Any
    labels: Any

    def accuracy(self, package: Package, target: Target) -> float:
        """Per cent of the held-out digits whose largest logit is the label's."""
        name, output = package.io.inputs[0].name, package.io.outputs[0].name
        right = 0
        with load(package, target=target) as session:
            for start in range(0, len(self.labels), 64):
                logits = session.run({name: self.images[start : start + 64]})[output]
                right += int((logits.argmax(1) == self.labels[start : start + 64]).sum())
        return 100 * right / len(self.labels)


def train(folder: Path, threads: int, progress: Progress) -> Digits:
    """Train it, seeded, and export it to `folder`."""
    _torchvision.install()
    import timm
    import torch

    pixels, labels = _pictures()
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224",
        pretrained=False,
        img_size=32,
        patch_size=4,
        window_size=4,
        in_chans=1,
        embed_dim=32,
        depths=(2, 2),
        num_heads=(2, 4),
        num_classes=10,
    )
    chosen = torch.arange(0, len(labels), 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    steps = EPOCHS * -(-len(chosen) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        progress(f"training the Swin on digits, epoch {epoch + 1} of {EPOCHS}")
        for batch in chosen[torch.randperm(len(chosen))].split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(pixels[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    held_out = slice(1, None, 2)
    package = pipeline.export(model, pixels[:4], output=folder / "digits.edgetx")
    return Digits(package, pixels[chosen].numpy(), pixels[held_out].numpy(), labels[held_out].numpy())


def _pictures() -> tuple[Any, Any]:
    """`[N, 1, 32, 32]` float32 of mean about 0, and the digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UnavailableError("the digits come with scikit-learn; pip install scikit-learn") from error
    import torch

    digits = load_digits()
    small = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
    return torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear"), torch.from_numpy(
        digits.target
    )
