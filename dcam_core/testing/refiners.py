"""The promises of a refiner as tests."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from dcam_core.conformance.check import Check, expect
from dcam_core.probing.refining import is_finer
from dcam_core.refiner import Refiner, RefinerContext
from dcam_core.testing import _calls
from dcam_core.testing._conformance import Conformance

__all__ = ["RefinerConformance"]

GRIDS = ((6, 5), (1, 7), (9, 1), (1, 1), (2, 3), (12, 13))
"""Token grids, also of one row or column: smaller than any kernel."""

DTYPES = (torch.float64, torch.float32, *_calls.HALF)


def _context(raw: Tensor) -> RefinerContext:
    return RefinerContext(
        raw,
        denoising_steps=32,
        image_size=384,
        answer_ids=(4, 9, 4, 7),
        padding_ids=(1, 1),
        picture=torch.rand(3, 40, 56, generator=_calls.seeded(), device="cpu").to(raw.device),
    )


def _fits(refiner: Refiner, refined: object, maps: Tensor) -> bool:
    """Whether maps came out as the contract says: on their own grid, or a finer one."""
    if not isinstance(refined, Tensor) or (refined.dtype, refined.device) != (maps.dtype, maps.device):
        return False
    return is_finer(refined, maps) if refiner.finer else refined.shape == maps.shape


def _refined(refiner: nn.Module, maps: Tensor, raw: Tensor | None = None) -> Tensor:
    return cast(Tensor, refiner(maps, _context(maps if raw is None else raw)))


def _maps(grid: tuple[int, int] = GRIDS[0], dtype: torch.dtype = torch.float64) -> Tensor:
    """[4, H, W] in [0, 1]: even, spiky, mostly zero, and with many equal values."""
    even = torch.rand(grid, dtype=torch.float64, generator=_calls.seeded())
    maps = torch.stack([even, even**20, even.where(even > 0.7, 0), even.round(decimals=1)])
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low).clamp(min=1e-8)).to(dtype)


def _awkward() -> dict[str, Tensor]:
    """[B, 6, 5] maps that easily lead to 0/0."""
    maps = _maps(dtype=torch.float32)
    one_cell = torch.zeros_like(maps)
    one_cell[:, 2, 3] = 1
    return {
        "ordinary maps": maps,
        "zeros": torch.zeros_like(maps),
        "ones": torch.ones_like(maps),
        "the same value everywhere": torch.full_like(maps, 0.3),
        "a single cell": one_cell,
        "maps far below 1": maps * 1e-6,
        "maps far above 0": 0.9 + 0.1 * maps,
    }


def _shape(refiner: Refiner) -> str:
    """Shape (or a finer grid, if it says so), dtype and device stay, on any grid and in any precision."""
    for grid in GRIDS:
        for dtype in DTYPES:
            maps = _maps(grid, dtype)
            refined = _refined(refiner, maps)
            expect(
                _fits(refiner, refined, maps),
                f"maps {_calls.found(maps)} became {_calls.found(refined)}",
            )
    return f"{len(GRIDS)} grids in {len(DTYPES)} precisions"


def _empty_batch(refiner: Refiner) -> str:
    """No maps stay no maps: [0, H, W]."""
    maps = _maps(dtype=torch.float32)[:0]
    refined = _refined(refiner, maps)
    expect(_fits(refiner, refined, maps), f"maps {_calls.found(maps)} became {_calls.found(refined)}")
    return str(list(maps.shape))


def _range(refiner: Refiner) -> str:
    """Values are finite and in [0, 1], also for maps that are flat, faint or a single cell."""
    cases = _awkward() | {f"a {h} x {w} grid in {t}": _maps((h, w), t) for h, w in GRIDS for t in DTYPES}
    for name, maps in cases.items():
        refined = _refined(refiner, maps)
        wrong = int((~refined.isfinite()).sum())
        expect(wrong == 0, f"{name}: {wrong} of {refined.numel()} values are not finite")
        low, high = refined.min().item(), refined.max().item()
        expect(low >= 0 and high <= 1, f"{name}: values go from {low:.6g} to {high:.6g}, out of [0, 1]")
    return f"{len(cases)} kinds of maps"


def _zero_map(refiner: Refiner) -> str:
    """A map that is zero everywhere stays so, whatever stands beside it."""
    for grid in GRIDS:
        for dtype in DTYPES:
            maps = _maps(grid, dtype)
            maps[1] = 0
            refined = _refined(refiner, maps)[1]
            expect(
                not refined.any(),
                f"on a {grid[0]} x {grid[1]} grid in {dtype} zeros became {refined.max():.3g}",
            )
    return f"{len(GRIDS)} grids in {len(DTYPES)} precisions"


def _batch(refiner: Refiner) -> str:
    """A map comes out the same alone and among others, in any order."""
    maps = _maps()
    raw = maps.flip(0)  # what belongs to a map in the context must be found by its place in the batch
    together = _refined(refiner, maps, raw)
    alone = [_refined(refiner, one[None], own[None]) for one, own in zip(maps, raw, strict=True)]
    return _calls.close(torch.cat(alone), together, 1e-9, "maps one by one, against all at once")


def _inputs(refiner: Refiner) -> str:
    """Nothing is written into the maps or into the context's raw maps."""
    maps, raw = _maps(), _maps().flip(0)
    return _calls.inputs_untouched(lambda: _refined(refiner, maps, raw), (maps, raw))


def _memory_layout(refiner: Refiner) -> str:
    """Values count, not where they lie in memory."""
    maps = _maps()
    expected = _refined(refiner, maps)
    return _calls.close(
        _refined(refiner, _calls.transposed(maps)), expected, 1e-9, "maps in another memory layout"
    )


def _determinism(refiner: Refiner) -> str:
    """The same maps give the same bits."""
    return _calls.deterministic(lambda: _refined(refiner, _maps()))


def _random_state(refiner: Refiner) -> str:
    """No global random state is touched."""
    maps = _maps()
    return _calls.random_states_untouched(lambda: _refined(refiner, maps))


def _device(refiner: Refiner) -> str:
    """Everything is made on the device of the maps."""
    maps = _maps()
    return _calls.on_the_device_of_its_inputs(lambda: _refined(refiner, maps))


def _inference(refiner: Refiner) -> str:
    """It runs without grad mode, and its maps require no gradients then."""
    maps = _maps()
    return _calls.without_graph(lambda: _refined(refiner, maps))


def _copies(refiner: Refiner) -> str:
    """A copy does the same."""
    return _calls.copied(refiner, lambda module: _refined(module, _maps()))


def _keywords(refiner: Refiner) -> str:
    """All parameters can be given by name."""
    return _calls.by_keyword(refiner)


CHECKS: tuple[Check[Refiner], ...] = (
    Check("shape", _shape),
    Check("empty-batch", _empty_batch),
    Check("range", _range),
    Check("zero-map", _zero_map),
    Check("batch", _batch),
    Check("inputs-untouched", _inputs),
    Check("memory-layout", _memory_layout),
    Check("determinism", _determinism),
    Check("random-state", _random_state),
    Check("device", _device),
    Check("inference", _inference),
    Check("copies", _copies),
    Check("keywords", _keywords),
)
"""Every promise of `dcam_core.Refiner`."""


class RefinerConformance(Conformance):
    """One test per promise of the contract of a refiner.

    Override the fixture `refiner`:

    class TestMine(RefinerConformance):
        @pytest.fixture
        def refiner(self):
            return Mine(sigma=1.5)
    """

    checks = CHECKS

    @pytest.fixture
    def refiner(self) -> Refiner:
        """The refiner under examination."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture `refiner`")

    @pytest.fixture
    def subject(self, refiner: Refiner) -> Refiner:
        """What is held to the promises."""
        return refiner
