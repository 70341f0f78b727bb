"""One full-size model of each family: one dynamic file against the exported module itself, freshly loaded."""

import numpy as np
import pytest
import torch

import edgetx
from edgetx import sources

SIZES = ((224, 224), (256, 320), (400, 304))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["swin_tiny", "swinv2_tiny"])
def test_one_dynamic_file_agrees_at_every_size(source, tmp_path):
    package = edgetx.export(source, pretrained=False, output=tmp_path / source)
    # Weights of this size lie beside the graph, so that neither file nears the limit of ONNX files, 2 GB.
    sizes = {name: entry.size for name, entry in package.manifest.files.items()}
    assert sizes["model.onnx.data"] > 100e6 and sizes["model.onnx"] < 5e6
    fresh = sources.load(source, pretrained=False).module
    generator = np.random.default_rng(0)
    with edgetx.load(package, target=edgetx.Target(threads=2)) as session:
        for size in SIZES:
            images = generator.normal(size=(5, 3, *size)).astype("float32")
            with torch.inference_mode():
                expected = fresh(torch.from_numpy(images)).numpy()
            assert np.abs(expected).max() > 0.1
            for batch in (1, 2, 5):
                (actual,) = session.run({"image": images[:batch]}).values()
                np.testing.assert_allclose(actual, expected[:batch], rtol=0, atol=1e-5)
