"""LaViDa's image tokens: the worked sizes of the published configuration, and what pooling does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dcam_adapters.lavida.config import LaViDaLLaDAConfig
from dcam_adapters.lavida.layout import picture_layout
from dcam_adapters.lavida.pooling import SpatialPooling


@pytest.mark.parametrize(
    ("size", "canvas", "crops", "trimmed", "kept", "length"),
    # Source: spec, section 6.3.
    [
        ((640, 480), (768, 768), 5, (3, 0), (22, 28), 834),
        ((480, 640), (768, 768), 5, (0, 3), (28, 22), 840),
        ((1920, 1080), (768, 768), 5, (6, 0), (16, 28), 660),
        ((1024, 1024), (768, 768), 5, (0, 0), (28, 28), 1008),
        ((1000, 500), (768, 384), 3, (0, 0), (14, 28), 602),
        ((500, 1500), (384, 1152), 4, (0, 0), (42, 14), 826),
        ((2000, 400), (1152, 384), 4, (3, 0), (8, 42), 540),
        ((300, 200), (384, 768), 3, (9, 0), (10, 14), 346),
        ((336, 336), (384, 768), 3, (7, 0), (14, 14), 406),
        ((384, 384), (384, 768), 3, (7, 0), (14, 14), 406),
    ],
)
def test_worked_sizes_of_the_published_configuration(size, canvas, crops, trimmed, kept, length):
    layout = picture_layout(LaViDaLLaDAConfig(), size, 14)
    rows, columns = layout.tiles.tiles
    found = (layout.tiles.canvas, 1 + rows * columns, layout.tiles.trimmed, layout.tiles.grid, layout.length)
    assert found == (canvas, crops, trimmed, kept, length)


def test_single_crops_end_with_one_newline():
    config = LaViDaLLaDAConfig(image_aspect_ratio="pad")
    assert picture_layout(config, (640, 480), 14).length == 197
    assert picture_layout(config, (640, 480), 27).length == 730
    anyres = LaViDaLLaDAConfig()
    assert picture_layout(anyres, (640, 480), 14, padded=True).length == 197


def test_cells_of_a_pooled_crop_are_27_pixels_wide():
    (view,) = picture_layout(LaViDaLLaDAConfig(image_aspect_ratio="square"), (384, 384), 14).views(0)
    edges = view.rectangles[0, :, [0, 2]].flatten().unique()
    assert edges.tolist() == [27.0 * k for k in range(15)]


def test_bilinear_pooling_reads_the_stated_points():
    pooling = SpatialPooling("bilinear", 27)
    assert pooling.cells == 14
    row, column = torch.meshgrid(torch.arange(27.0), torch.arange(27.0), indexing="ij")
    tokens = torch.stack([row, column], -1).flatten(0, 1)[None]
    pooled = pooling(tokens).view(14, 14, 2)
    # Source: spec, section 4: output k is sampled at (k + 0.5) * P / T - 0.5.
    points = (torch.arange(14) + 0.5) * 27 / 14 - 0.5
    assert torch.allclose(pooled[:, 0, 0], points, atol=1e-5)
    assert torch.allclose(pooled[0, :, 1], points, atol=1e-5)


@pytest.mark.parametrize(("mode", "pool"), [("average", F.avg_pool2d), ("max", F.max_pool2d)])
def test_the_other_modes_are_plain_pools(mode, pool):
    pooling = SpatialPooling(mode, 5)
    tokens = torch.randn(2, 25, 3)
    planes = pool(tokens.transpose(1, 2).unflatten(-1, (5, 5)), 2)
    assert pooling.cells == 2
    assert torch.equal(pooling(tokens), planes.flatten(2).transpose(1, 2))
