"""The one training loop: steps, validation, checkpoints, and going on as if nothing had happened."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastlm.errors import NumericError
from fastlm.train.corpus import Rows
from fastlm.train.folders import Run, write_json
from fastlm.train.models import Machine, logits_of, seed_step
from fastlm.train.optimizer import learning_rate, optimizers
from fastlm.train.recipe import Recipe
from fastlm.train.validation import HeldOut

CLIP = 1.0  # largest norm of a step's gradient


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained and on what.

    Attributes
    ----------
    model
        A torch module.
    loss
        (model, ids int64 (batch, length + 1)) -> scalar in nats per token.
    logits
        (model, ids) -> (batch, T, vocab), for validation.
    """

    model: Any
    loss: Callable[[Any, Any], Any]
    rows: Rows
    held_out: HeldOut
    logits: Callable[[Any, Any], Any]


@dataclass(slots=True)
class State:
    """How far a run is."""

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0  # since the last validation
    loss_steps: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)


def next_token_loss(model: Any, ids: Any) -> Any:
    """Cross-entropy of each next token."""
    from torch.nn.functional import cross_entropy

    logits = logits_of(model, ids[:, :-1])
    return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def fit(job: Job, recipe: Recipe, where: Machine, run: Run) -> State:
    """Train to the last step, from the newest checkpoint if there is one."""
    import torch

    steps = recipe.steps if recipe.steps is not None else job.rows.steps(recipe.epochs)
    job.model.to(where.device)
    moving = optimizers(job.model, recipe)
    state = _restored(job.model, moving, where, run)
    progress = Progress(steps, recipe.batch * job.rows.length, state)
    if not state.log:
        _validate(job, where, state, 0.0)
        progress.line(state.log[-1])
    job.model.train()
    weights = [weight for weight in job.model.parameters() if weight.requires_grad]
    saved = time.monotonic()
    while state.step < steps:
        began = time.monotonic()
        seed_step(recipe.seed, state.step)
        rate = learning_rate(recipe, state.step, steps)
        for group in (group for optimizer in moving for group in optimizer.param_groups):
            group["lr"] = rate
        ids = torch.from_numpy(job.rows.batch(state.step)).to(where.device).long()
        with where.products():
            loss = job.loss(job.model, ids)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(weights, CLIP))
        if not math.isfinite(norm):
            raise NumericError(f"the gradient of step {state.step} is not finite: a lower --lr may help")
        for optimizer in moving:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.loss_sum += float(loss.detach())
        state.loss_steps += 1
        if state.step % recipe.eval_every == 0 or state.step == steps:
            _validate(job, where, state, rate)
            progress.line(state.log[-1])
        state.seconds += time.monotonic() - began
        progress.show(state)
        if time.monotonic() - saved >= recipe.save_seconds or state.step == steps:
            run.save(state.step, lambda folder: _save(folder, job.model, moving, state))
            saved = time.monotonic()
    return state


def _validate(job: Job, where: Machine, state: State, rate: float) -> None:
    found = job.held_out.bits_per_byte(job.model, job.logits, where)
    loss = state.loss_sum / state.loss_steps if state.loss_steps else None
    entry = {"step": state.step, "loss": loss, "lr": rate, "bits_per_byte": found}
    state.log.append(entry)
    state.loss_sum, state.loss_steps = 0.0, 0


def _save(folder: Path, model: Any, moving: list[Any], state: State) -> None:
    import torch

    weights = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    whole = {"weights": weights, "optimizers": [optimizer.state_dict() for optimizer in moving]}
    torch.save(whole, folder / "state.pt")
    write_json(folder / "state.json", asdict(state))


def _restored(model: Any, moving: list[Any], where: Machine, run: Run) -> State:
    import torch

    newest = run.newest()
    if newest is None:
        return State()
    found = torch.load(newest / "state.pt", map_location=where.device, weights_only=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.copy_(found["weights"][name])
    for optimizer, values in zip(moving, found["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    return State(**json.loads((newest / "state.json").read_bytes()))


class Progress:
    """A line on stderr: where, loss, bits per byte of held-out text, time left, speed.

    A terminal shows each step, in one line that is written over; elsewhere there is a line for each validation.
    """

    def __init__(self, steps: int, tokens: int, state: State) -> None:
        self._steps, self._tokens, self._first = steps, tokens, (state.step, state.seconds)
        self._live = sys.stderr.isatty()
        self._bits = ""
        self._loss = math.nan

    def line(self, entry: dict[str, Any]) -> None:
        self._bits = f"  {entry['bits_per_byte']['all']:.4f} bits/byte"
        self._loss = entry["loss"] or math.nan

    def show(self, state: State) -> None:
        fresh = state.loss_steps == 0
        if not (self._live or fresh):
            return
        if not fresh:
            self._loss = state.loss_sum / state.loss_steps
        done, seconds = state.step - self._first[0], state.seconds - self._first[1]
        speed = done / max(seconds, 1e-9)
        left = (self._steps - state.step) / speed
        text = (
            f"step {state.step}/{self._steps}  loss {self._loss:.4f}{self._bits}"
            f"  {_spoken(left)} left  {speed * self._tokens:,.0f} tokens/s"
        )
        if self._live:
            text = "\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1]  # a longer one would begin a new line
        sys.stderr.write(text + "\n" * (fresh or not self._live))
        sys.stderr.flush()


def _spoken(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
