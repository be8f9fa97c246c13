"""The whole recipe: tokenizer, base model, drafter LoRA, evaluation (``nemotron-diffusion train-tiny``)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nemotron_diffusion_plugin.model.config import NemotronLabsDiffusionConfig
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.reference.model import ReferenceModel
from nemotron_diffusion_plugin.tools.outputs import writing
from nemotron_diffusion_plugin.tools.training.base import Progress, initialize, train_base
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder
from nemotron_diffusion_plugin.tools.training.drafter import DraftProgress, train_drafter
from nemotron_diffusion_plugin.tools.training.evaluation import VARIANTS, Score, evaluate, format_table
from nemotron_diffusion_plugin.tools.training.export import export
from nemotron_diffusion_plugin.tools.training.geometry import VOCAB_SIZE, tiny_config
from nemotron_diffusion_plugin.tools.training.tasks import CATEGORIES
from nemotron_diffusion_plugin.tools.training.tokenizer import write_tokenizer

CHECKPOINT_MINUTES = 4.0


@dataclass(frozen=True, slots=True)
class Phase:
    """One cycle of the base model's training: warm-up and decay of the learning rate over ``steps`` steps.

    ``share_of_time``: of the whole training's time, where that is bounded; ``peak``: of the learning rate;
    ``weights``: task weights that differ from those of :data:`.tasks.CATEGORIES`.
    """

    steps: int
    share_of_time: float
    peak: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)


PHASES = (
    Phase(steps=2300, share_of_time=0.58),
    Phase(steps=650, share_of_time=0.16, peak=0.5, weights={"lookup": 5.0}),
    Phase(
        steps=650,
        share_of_time=0.16,
        peak=0.4,
        weights={"counting": 4.0, "arithmetic": 4.0, "lookup": 3.0, "json": 2.0, "copying": 2.0},
    ),
)
DRAFTER_STEPS = 250
DRAFTER_SHARE_OF_TIME = 0.10


def train_tiny(
    output: Path,
    minutes: float | None = None,
    seed: int = 0,
    *,
    phases: Sequence[Phase] = PHASES,
    drafter_steps: int = DRAFTER_STEPS,
    eval_per_category: int = 20,
    on_report: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Score]]:
    """Train the tiny model into the folder ``output`` and return its held-out scores.

    ``minutes`` bounds the training time and shrinks every phase to fit; without it the numbers of steps
    decide. A provisional checkpoint without adapter is written every few minutes, and stays when the training is
    interrupted. ``on_report`` receives lines of text; a progress bar is drawn on a terminal. Returns
    scores[variant][category]; empty for ``eval_per_category`` 0. Raises `OSError` before the training where
    ``output`` cannot be written.
    """
    report = on_report or (lambda line: None)
    drafter_minutes = None if minutes is None else minutes * DRAFTER_SHARE_OF_TIME
    with writing(output) as made, _ProgressBar() as bar:
        write_tokenizer(made.part, VOCAB_SIZE)
        encoder = ChatEncoder(made.part)
        model = ReferenceModel(NemotronLabsDiffusionConfig(**tiny_config()))
        initialize(model, seed)
        saved = time.monotonic()

        def after_base_step(progress: Progress) -> None:
            nonlocal saved
            losses = f"AR {progress.causal_loss:.3f} diffusion {progress.diffusion_loss:.3f}"
            bar.move(progress.fraction, losses)
            if progress.step % 50 == 0:
                report(f"base {progress.step} {progress.fraction:.3f} tokens {progress.tokens} {losses}")
            if time.monotonic() - saved > 60.0 * CHECKPOINT_MINUTES:
                export(made.part, model)
                made.publish()
                saved = time.monotonic()
                report(f"provisional checkpoint written to {output}")

        for index, phase in enumerate(phases):
            bar.start(f"base model {index + 1}/{len(phases)}", 1.0)
            done = train_base(
                model,
                encoder,
                seed=seed + index,
                steps=phase.steps,
                minutes=None if minutes is None else minutes * phase.share_of_time,
                weights=phase.weights,
                peak=phase.peak,
                on_step=after_base_step,
            )
            report(f"base phase {index + 1} done: {done}")
            export(made.part, model)
            made.publish()
        model = ReferenceModel.from_checkpoint(output)
        bar.start("drafter LoRA", 1.0)

        def after_drafter_step(progress: DraftProgress) -> None:
            state = f"loss {progress.loss:.3f} accepted {progress.accepted:.2f}"
            bar.move(progress.fraction, state)
            if progress.step % 20 == 0:
                report(f"drafter {progress.step} {progress.fraction:.3f} {state}")

        lora = train_drafter(
            model,
            encoder,
            seed=seed,
            steps=drafter_steps,
            minutes=drafter_minutes,
            on_step=after_drafter_step,
        )
        lora.save(made.part, torch.bfloat16)
        made.publish()
        if not eval_per_category:
            return {}
        bar.start("evaluation", eval_per_category * len(CATEGORIES) * len(VARIANTS))
        scores = evaluate(
            ReferenceDecoder.from_checkpoint(output),
            encoder,
            per_category=eval_per_category,
            seed=seed,
            on_answer=bar.advance,
        )
    report(format_table(scores))
    return scores


class _ProgressBar:
    """A rich progress bar with a free text beside it."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar: Any = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            disable=not os.isatty(1),
        )
        self._task: Any = None

    def __enter__(self) -> _ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def start(self, name: str, size: float) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=size, state="")

    def move(self, done: float, state: str) -> None:
        self._bar.update(self._task, completed=done, state=state)

    def advance(self) -> None:
        self._bar.advance(self._task)
