"""Peak memory as the allocator of the CPU reports it to torch's profiler."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

__all__ = ["peak_allocated"]


def peak_allocated(call: Callable[[], object]) -> int:
    """Highest number of bytes that a call had allocated at once, within kernels too.

    Args:
        call: what is measured.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = profiled.profiler.kineto_results.events()
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    alive = peak = 0
    for _, size in memory:
        alive += size
        peak = max(peak, alive)
    return peak
