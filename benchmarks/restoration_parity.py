"""Parity of every restoration architecture with an exporter: one dynamic file against PyTorch, several sizes.

Two configurations of the library's own parameters each, reduced, with random weights. The pictures are those
that every export is verified on: crops of photographs, of sizes that are no multiple of the windows or
smaller, in portrait and landscape, and a batch of two; Histoformer's are thumbnails, on which float32 settles
the order of its sorts. RAT and Histoformer are ours, the others spandrel's.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.record import Goal, Progress, Record
from edgetx import pipeline

TITLE = "Restoration architectures against PyTorch"
LARGEST = 1e-4
"""Of the value range, 1."""
_SWIN = "depths=[2,2]&embed_dim=24&num_heads=[2,4]&mlp_ratio=2"
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "SwinIR": (
        f"img_size=16&window_size=8&{_SWIN}&upscale=2&upsampler='pixelshuffledirect'",
        f"img_size=16&window_size=8&{_SWIN}&upscale=4&upsampler='nearest+conv'&resi_connection='3conv'",
    ),
    "Swin2SR": (
        f"img_size=16&window_size=8&{_SWIN}&upscale=2&upsampler='pixelshuffledirect'",
        f"img_size=16&window_size=8&{_SWIN}&upscale=3&upsampler='pixelshuffle'&resi_connection='3conv'",
    ),
    "HAT": (
        f"img_size=16&window_size=8&{_SWIN}&upscale=2&compress_ratio=4&squeeze_factor=6",
        f"img_size=16&window_size=8&{_SWIN}&upscale=3&compress_ratio=3&squeeze_factor=6&in_chans=1",
    ),
    "DRCT": (
        "img_size=16&window_size=8&depths=[6]&embed_dim=24&num_heads=[4]&mlp_ratio=2&gc=8"
        "&upsampler='pixelshuffle'&upscale=2",
        "img_size=16&window_size=8&depths=[6,6]&embed_dim=32&num_heads=[4,4]&mlp_ratio=2&gc=16"
        "&upsampler='pixelshuffle'&upscale=4",
    ),
    "DAT": (
        "embed_dim=32&depth=[3,1]&num_heads=[2,4]&split_size=[4,8]&expansion_factor=2.0&upscale=2",
        "embed_dim=48&depth=[2]&num_heads=[4]&split_size=[2,16]&expansion_factor=4.0&upscale=4"
        "&resi_connection='3conv'&upsampler='pixelshuffledirect'",
    ),
    "RGT": (
        "embed_dim=32&depth=[3,2]&num_heads=[2,4]&mlp_ratio=2.0&split_size=[4,8]&upscale=2",
        "embed_dim=48&depth=[2]&num_heads=[4]&mlp_ratio=2.0&split_size=[2,16]&c_ratio=0.75&upscale=4",
    ),
    "CRAFT": (
        "depths=[1,1]&embed_dim=32&num_heads=[4,2]&window_size=8&upscale=2",
        "depths=[1]&embed_dim=48&num_heads=[4]&window_size=16&split_size_1=16&mlp_ratio=3.0&upscale=4",
    ),
    "ATD": (
        "embed_dim=24&depths=[1]&num_heads=[2]&num_tokens=16&mlp_ratio=1&upscale=2&upsampler='pixelshuffle'",
        "embed_dim=48&depths=[2,1]&num_heads=[2,4]&num_tokens=16&mlp_ratio=1&upscale=3"
        "&upsampler='pixelshuffledirect'",
    ),
    "FDAT": (
        "embed_dim=32&num_groups=2&depth_per_group=1&mid_dim=32&scale=2&upsampler_type='pixelshuffle'",
        "embed_dim=32&num_groups=1&depth_per_group=1&mid_dim=32&scale=3&window_size=4&num_heads=2"
        "&upsampler_type='transpose+conv'",
    ),
    "SCUNet": ("config=[0,0,0,2,1,0,0]", "config=[2,1,0,1,0,2,1]&in_nc=1"),
    "Uformer": (
        "embed_dim=8&num_heads=[1,2,4,8,8,8,4,2,1]&mlp_ratio=2&depths=[1,1,1,2,2,2,1,1,1]&modulator=true",
        "embed_dim=8&num_heads=[1,2,4,8,8,8,4,2,1]&mlp_ratio=2&depths=[1,1,1,1,2,1,1,1,1]&win_size=4"
        "&token_mlp='mlp'",
    ),
    "OmniSR": (
        "up_scale=2&num_feat=16",
        "up_scale=3&num_feat=24&block_num=2&window_size=4&num_in_ch=1&num_out_ch=1",
    ),
    "rat": (
        "width=16&blocks=1&layers=1&encoders=[1,1]&decoders=[1,1]&num_heads=4",
        "width=8&blocks=2&layers=2&encoders=[1]&decoders=[1]&num_heads=2&channels=3&scale=2",
    ),
    "histoformer": (
        "dim=6&num_blocks=[1,1,1,1]&num_refinement_blocks=1&heads=[1,2,2,4]",
        "dim=8&num_blocks=[1,0,0,1]&num_refinement_blocks=0&heads=[2,2,4,4]&ffn_expansion_factor=2.5&bias=true"
        "&centred=false",
    ),
}
OURS = ("rat", "histoformer")


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """The largest error over all pictures of each configuration; nothing is timed."""
    goals = []
    for name, configurations in CONFIGURATIONS.items():
        for number, options in enumerate(configurations):
            progress(f"{name}: {options}")
            package = pipeline.export(
                f"{name if name in OURS else f'spandrel:{name}'}?{options}",
                pretrained=False,
                output=folder / f"{name}{number}.edgetx",
            )
            manifest = package.manifest
            assert manifest.verdict is not None
            if manifest.architecture == "generic":
                raise RuntimeError(f"no exporter recognises {name} with {options}")
            sizes = ", ".join("x".join(map(str, case.inputs["image"].shape)) for case in package.golden())
            goals.append(
                Goal(
                    what=f"{name}, {options.replace('&', ', ')}; at {sizes}",
                    measured=max(float(output.max_abs) for output in manifest.verdict.outputs),
                    at_most=LARGEST,
                )
            )
    return Record(title=TITLE, reports={}, goals=goals, notes=["Value range 1; float32, random weights."])
