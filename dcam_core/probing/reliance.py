"""What a word depends on: its log-probability with the picture, and without.

Every word is asked for in the same state, with the picture and with another in its place: the finished answer, with
that word alone undecided again (the state of "infill"). What the other words tell about it, they tell both
times; what remains of the difference is what the picture itself says about the word. At the state by which a word
was decided this would not be so: "and" is decided by how many objects there are, as long as those are not yet
written. That state is therefore not offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.denoising.decision import Decider

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.inputs import Inputs
    from dcam_core.probing.targets import Target

__all__ = ["hidden_log_probabilities"]


def hidden_log_probabilities(
    adapter: Adapter,
    inputs: Inputs,
    final: Tensor,
    targets: Sequence[Target],
    settings: SamplerSettings,
    *,
    states_per_forward: int = 8,
) -> Tensor:
    """Log-probability of each word where it is hidden and the rest of the answer is visible.

    Args:
        adapter: the model; call within `dcam_core.probing.untouched.untouched`.
        inputs: the prepared prompt.
        final: [G] int64 on the CPU, the finished answer.
        targets: T words.
        settings: guidance, suppressed ids and prefix cache, as during generation.
        states_per_forward: how many words share a forward pass; bounds memory.

    Returns:
        [T] float32 on the CPU, in nats: summed over the tokens of a word, which are all hidden at once.
        -inf where one of them is suppressed.
    """
    device = inputs.embeddings.device
    decider = Decider(adapter, inputs, settings)
    found = []
    with torch.no_grad():
        for start in range(0, len(targets), states_per_forward):
            chunk = targets[start : start + states_per_forward]
            states = torch.stack([adapter.hidden(final, target.positions) for target in chunk]).to(device)
            wanted = sorted({position for target in chunk for position in target.positions})
            columns = {position: column for column, position in enumerate(wanted)}
            logits = decider.logits(states, torch.tensor(wanted, device=device))
            for row, target in zip(logits, chunk, strict=True):
                read = row[[columns[position] for position in target.positions]].log_softmax(-1)
                ids = torch.tensor(target.token_ids, device=device)
                found.append(read.gather(-1, ids[:, None]).sum())
    return torch.stack(found).float().cpu() if found else torch.zeros(0)
