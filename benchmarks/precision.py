"""Accuracy in float16 on ONNX Runtime's CPU: DAT-light x2 on Set5, and a small Swin trained on digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.record import Goal, Progress, Record
from benchmarks.restoration_quality import _set5, _weights
from edgetx import _torchvision, pipeline, precision
from edgetx.core import Target
from edgetx.dataset import Restoration, evaluate
from edgetx.errors import UnavailableError
from edgetx.package import Package
from edgetx.runtimes import load

TITLE = "Half precision: accuracy against float32"
LARGEST_LOSS = 0.02
LARGEST_DROP = 0.2
EPOCHS = 12


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """The PSNR that DAT-light x2 loses, in dB, and the accuracy that the Swin loses, in points."""
    target = Target(threads=threads)
    goals = [*_restoration(folder, target, progress), *_digits(folder, target, threads, progress)]
    return Record(
        title=TITLE,
        reports={},
        goals=goals,
        notes=[
            "float16 packages made by `edgetx convert`, on ONNX Runtime's CPU provider with edgetx's "
            "kernels; operators without a float16 kernel there run in float32.",
            "PSNR is that of the luma (BT.601, 16 to 235) on outputs rounded to 8 bits, without 2 pixels at "
            "each border.",
            "The Swin (timm, patches and windows of 4, embed_dim 32, depths 2 and 2) was trained for "
            f"{EPOCHS} epochs on every other digit of scikit-learn's 1,797, enlarged to "
            "32 x 32; the rest is held out.",
        ],
    )


def _restoration(folder: Path, target: Target, progress: Progress) -> list[Goal]:
    source = _weights() / "DAT_light_x2.pth"
    progress(f"{source.name}: exporting")
    package = pipeline.export(str(source), output=folder / "DAT_light_x2.edgetx")
    half = precision.convert(package, progress=progress)
    report = evaluate(half, _set5(), target=target, progress=progress)
    assert isinstance(report, Restoration)
    goals = []
    for picture in report.pictures:
        if picture.package is None or picture.pytorch is None or picture.difference is None:
            raise RuntimeError(f"{picture.name} could not be measured: {picture.error or report.notes}")
        goals.append(
            Goal(
                what=f"DAT-light x2, {picture.name}: PyTorch {picture.pytorch.psnr:.3f} dB, "
                f"float16 {picture.package.psnr:.3f} dB; lost",
                measured=-picture.difference,
                unit="dB",
                at_most=LARGEST_LOSS,
            )
        )
    conversion = half.manifest.conversion
    assert conversion is not None
    kept = sum(entry.nodes for entry in conversion.kept)
    goals.append(Goal(what=f"DAT-light x2, nodes in float32, of {conversion.half + kept}", measured=kept))
    return goals


def _digits(folder: Path, target: Target, threads: int, progress: Progress) -> list[Goal]:
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
    train = torch.arange(0, len(labels), 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for epoch in range(EPOCHS):
        progress(f"training the Swin on digits, epoch {epoch + 1} of {EPOCHS}")
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(pixels[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    held_out = slice(1, None, 2)
    images, wanted = pixels[held_out].numpy(), labels[held_out].numpy()
    package = pipeline.export(model, pixels[:4], output=folder / "digits.edgetx")
    half = precision.convert(package, progress=progress)
    whole, rounded = (_accuracy(each, images, wanted, target) for each in (package, half))
    return [
        Goal(
            what=f"Swin on {len(wanted)} held-out digits: float32 {whole:.2f} %, "
            f"float16 {rounded:.2f} %; lost",
            measured=whole - rounded,
            unit="points",
            at_most=LARGEST_DROP,
        )
    ]


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


def _accuracy(package: Package, images: Any, labels: Any, target: Target) -> float:
    """Per cent of the images whose largest logit is the label's."""
    name, output = package.io.inputs[0].name, package.io.outputs[0].name
    right = 0
    with load(package, target=target) as session:
        for start in range(0, len(labels), 64):
            logits = session.run({name: images[start : start + 64]})[output]
            right += int((logits.argmax(1) == labels[start : start + 64]).sum())
    return 100 * right / len(labels)
