"""A recorded denoising run as a picture: what stood at every answer position after every step.

Run as a script, `python tests/support/trajectory_picture.py OUT.png`, it draws the tiny random DiffusionGemma.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch, Rectangle

from dcam_core.denoising.sampler import DenoisingStep
from dcam_core.denoising.trajectory import Trajectory

NOISE, TAKEN_BACK, DECIDED, OUTSIDE = "#e3e3e3", "#f3b562", "#7fbf7b", "#ffffff"


def draw(run: Trajectory, told: Sequence[DenoisingStep], words: Sequence[str], out: Path) -> None:
    """One row per step, one column per answer position.

    Args:
        run: the recorded run.
        told: what an observer of it heard, one item per step.
        words: token id -> text.
        out: PNG file.
    """
    steps, positions = run.steps, len(run.final)
    figure, axes = plt.subplots(figsize=(0.95 * positions + 1.6, 0.42 * steps + 1.9), layout="constrained")
    for step in range(steps):
        accepted = set(told[step].committed.tolist())
        for position in range(positions):
            decided = 0 <= int(run.commit_steps[position]) <= step
            inside = run.computed(step, position)
            colour = (
                DECIDED if decided else TAKEN_BACK if position in accepted else NOISE if inside else OUTSIDE
            )
            axes.add_patch(Rectangle((position, step), 1, 1, facecolor=colour, edgecolor="white"))
            if int(run.commit_steps[position]) == step:
                axes.add_patch(
                    Rectangle(
                        (position + 0.04, step + 0.06), 0.92, 0.88, fill=False, edgecolor="#1b5e20", lw=1.6
                    )
                )
            if inside or decided:
                text = words[int(run.states[step + 1, position])]
                axes.text(
                    position + 0.5,
                    step + 0.5,
                    text,
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="black" if decided or position in accepted else "#9a9a9a",
                )
    axes.set(xlim=(0, positions), ylim=(steps, 0), xlabel="answer position", ylabel="denoising step")
    axes.set_xticks([position + 0.5 for position in range(positions)], range(positions))
    axes.set_yticks([step + 0.5 for step in range(steps)], range(steps))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.legend(
        handles=[
            Patch(facecolor=NOISE, label="random (not accepted)"),
            Patch(facecolor=TAKEN_BACK, label="accepted, taken back later"),
            Patch(facecolor=DECIDED, label="decided"),
            Patch(
                facecolor="none",
                edgecolor="#1b5e20",
                linewidth=1.6,
                label="commit step: the state replayed for it",
            ),
        ],
        loc="outside upper center",
        ncols=4,
        frameon=False,
        fontsize=9,
    )
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main(out: Path) -> None:
    """Draw a run of the tiny random DiffusionGemma, with a lower entropy bound so that more steps are taken."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from dcam_adapters.diffusion_gemma.adapter import DiffusionGemmaAdapter
    from support import diffusion_gemma as tiny

    adapter = DiffusionGemmaAdapter(tiny.tiny_model(), tiny.tiny_tokenizer(), tiny.tiny_image_processor())
    inputs = adapter.prepare(tiny.picture(), "describe the picture")
    told: list[DenoisingStep] = []
    settings = adapter.default_sampler.merged(
        {"stop_sequences": (), "steps_per_canvas": 10, "confidence_threshold": 0.02, "entropy_bound": 0.6}
    )
    run = adapter.denoise(inputs, settings, told.append)
    draw(run, told, [*tiny.SPECIAL, *tiny.WORDS], out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
