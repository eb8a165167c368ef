"""A training run: its folder, where it stands, what it writes, when it saves and when it stops.

A training script reads:

    with TrainingRun(args.output, "wavegan-drums", vars(args), changeable=CHANGEABLE, quiet=args.quiet) as run:
        for _ in run.train(trainer, args.steps, evaluate_every=500, save_minutes=args.save_minutes):
            run.log("epochs", run.mean_losses() | evaluate())

What step t is trained on must be a function of the seed and t: then a resumed run repeats an uninterrupted one. The
folder holds options.json, log.txt, steps.jsonl (losses of every step), what `log` writes and tensorboard/.
"""

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf
from tqdm import tqdm

from utils.errors import UserError
from utils.runs import locks
from utils.runs.files import append_jsonl, literal_path, read_jsonl
from utils.runs.folders import keep_options, output_folder, require_folder, tee_log
from utils.runs.interrupts import on_interrupt, resume_command
from utils.runs.progress import progress_bar

STEPS = "steps"
LOSSES_SECONDS = 1.0  # most that losses stay on the device, which computes on meanwhile


class Trainer(Protocol):
    """What is trained, and how it is kept."""

    def step(self, number: int) -> Mapping[str, Any]:
        """Does step `number`, counted from 0, which follows the last one done: losses by name, scalars."""

    def save(self, folder: Path, step: int) -> None:
        """Writes what `restore` needs after so many steps, atomically, into the folder of the run."""

    def restore(self, folder: Path) -> int:
        """Goes back to what `save` wrote into the folder, if anything: the steps done then, or 0."""


class InOrder:
    """The batch of a step, from a function that gives an iterator of the batches from a step on."""

    def __init__(self, batches_from: Callable[[int], Iterator[Any]]):
        self._batches_from, self._next, self._batches = batches_from, -1, iter(())

    def from_step(self, number: int) -> Iterator[Any]:
        """An iterator whose next batch is that of step `number`, of which exactly one must be taken."""
        if number != self._next:
            self._batches = self._batches_from(number)
        self._next = number + 1
        return self._batches


class TrainingRun:
    """A context: within it the run's folder stands, with its options, and the log is written.

    Ctrl-C within it raises KeyboardInterrupt with the command that resumes it as its message; while `train` runs, the
    first Ctrl-C does so after the step in hand, which is saved.

    Args:
        output: `--output`: the folder, made or continued; None: a new numbered one in logs/.
        description: the name of a new folder.
        options: what the run begins with, see `keep_options`.
        changeable: names of options that may have another value when the run is continued.
        quiet: print warnings and errors only.
        is_chief: False for the workers of a multi-worker run that write nothing; they need an `output`.

    Attributes:
        folder: of the run.
        done: steps done.
    """

    def __init__(
        self,
        output: Path | None,
        description: str,
        options: Mapping[str, Any],
        *,
        changeable: Collection[str] = (),
        quiet: bool = False,
        is_chief: bool = True,
    ):
        self.quiet, self.is_chief, self.done = quiet or not is_chief, is_chief, 0
        self._output, self._description, self._options, self._changeable = output, description, options, changeable
        self._boards: dict[str, tf.summary.SummaryWriter] = {}

    def __enter__(self) -> "TrainingRun":
        self.folder = self._output
        with contextlib.ExitStack() as stack:
            stack.callback(locks.release_all)
            if self.is_chief:
                self.folder = output_folder(self._output, Path("logs"), self._description)
            own = {"changeable": self._changeable, "positional": ("input",), "write": self.is_chief}
            keep_options(self.folder, self._options, **own)
            if self.is_chief:
                stack.enter_context(tee_log(self.folder / "log.txt"))
            self._stack = stack.pop_all()
        self.say(str(self.folder))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for board in self._boards.values():
            board.close()
        self._stack.__exit__(kind, error, trace)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(resume_command(self.folder, self._output)) from None

    def train(
        self,
        trainer: Trainer,
        total: int,
        *,
        evaluate_every: int,
        save_minutes: float,
        minutes: float | None = None,
        clips_of: Callable[[int], Sequence[str]] | None = None,
        clips_per_step: int = 0,
        evaluations: str = "epochs",
    ) -> Iterator[None]:
        """Restores the trainer and does the steps that are left; the loop's body evaluates, and calls `log`.

        A checkpoint is saved before each evaluation, every `save_minutes`, and when the loop ends. What a killed run
        did since then is done again, an evaluation too. Of several workers the chief alone saves and evaluates.

        Args:
            trainer: what is trained.
            total: steps in all.
            evaluate_every: steps between two evaluations; there is one at the end too.
            save_minutes: most minutes between two checkpoints.
            minutes: stop after so many, ready to continue; None: never.
            clips_of: names of the clips that a step is trained on, for the message of a loss that is not finite.
            clips_per_step: clips that a step is trained on, for the pace; 0: the pace is in steps.
            evaluations: the name under which each evaluation logs.

        Raises:
            UserError: for a loss that is not finite, naming the clips of the step; where the folder has vanished.
        """
        self.done, self.total, self._evaluate_every = trainer.restore(self.folder), total, evaluate_every
        self._clips_of, self._clips_per_step, self._has_checkpoint = clips_of, clips_per_step, self.done > 0
        hours, losses = read_steps(self.folder)
        self._hours_before = hours.get(self.done - 1, 0.0)
        last = self.done - 1 if self._unlogged(evaluations) else self.done  # of the stretch that is evaluated next
        stretch = range(last // evaluate_every * evaluate_every, self.done)
        self._counted = [losses[step] for step in stretch if step in losses]
        if self.done:
            self.say(f"resumed at step {self.done}")
        self._pending: list[tuple[int, float, Mapping[str, Any]]] = []
        self._started = self._saved = self._read = time.monotonic()
        self._paced_steps, self._paced_seconds, self._stopped = 0, 0.0, False
        self._first_step_ended: float | None = None
        bar = progress_bar("training", total, unit="step", quiet=self.quiet, initial=self.done, leave=False)
        self._bar = self._stack.enter_context(contextlib.closing(bar))
        interrupt = self._stack.enter_context(on_interrupt(finish_step=True))
        with bar:
            if self.is_chief and self.done and self._unlogged(evaluations):
                yield
            while self.done < total and not self._stopped:
                began = time.monotonic()
                self._count(trainer.step(self.done), began)
                now = time.monotonic()
                out_of_time = minutes is not None and now - self._started > 60 * minutes
                evaluation_due = self.done % evaluate_every == 0 or self.done == total
                save_due = now - self._saved > 60 * save_minutes
                if self.is_chief and (evaluation_due or save_due or interrupt.asked or out_of_time):
                    self._read_losses()  # a loss that is not finite is found before what it made is kept
                    trainer.save(self.folder, self.done)
                    self._saved, self._has_checkpoint = time.monotonic(), True
                if self.is_chief and evaluation_due:
                    yield
                if interrupt.asked and not self.finished:
                    raise KeyboardInterrupt
                if out_of_time and not self.finished:
                    command = resume_command(self.folder, self._output).removeprefix("Interrupted. ")
                    tqdm.write(f"Stopped after {minutes:g} minutes and {self.done} steps. {command}")
                    return

    def _unlogged(self, evaluations: str) -> bool:
        """Whether the last step done was one to evaluate after, and the evaluation was cut short."""
        due = self.done % self._evaluate_every == 0 or self.done == self.total
        return due and self.done not in rows_by_step(self.folder / f"{evaluations}.jsonl")

    def _count(self, losses: Mapping[str, Any], began: float) -> None:
        """Counts the step that has just been done; its losses are read off the device later, with others."""
        self._pending.append((self.done, self.hours, losses))
        now = time.monotonic()
        if now - self._read > LOSSES_SECONDS or self._first_step_ended is None:
            self._read_losses()
            now = time.monotonic()
        if self._first_step_ended is None:  # building the graph is no pace
            self._first_step_ended, self._first_seconds = now, now - began
        else:
            self._paced_steps += 1
            self._paced_seconds += now - began
        self.done += 1
        self._bar.update()

    def _read_losses(self) -> None:
        """Brings the losses of the steps since the last call to steps.jsonl."""
        pending, self._pending, self._read = self._pending, [], time.monotonic()
        rows = []
        try:
            for step, hours, losses in pending:
                losses = {name: float(value) for name, value in losses.items()}
                if not all(map(math.isfinite, losses.values())):
                    raise UserError(self._not_finite(step, losses))
                rows.append({"step": step, "hours": hours, **losses})
                if self.is_chief:
                    self._counted.append(losses)
        finally:
            if self.is_chief and rows:
                require_folder(self.folder)
                append_jsonl(self.folder / f"{STEPS}.jsonl", *rows, on_disk=False)

    def _not_finite(self, step: int, losses: Mapping[str, float]) -> str:
        kept = "the last checkpoint is as it was saved before" if self._has_checkpoint else "nothing had been saved"
        clips = ", ".join(dict.fromkeys(self._clips_of(step))) if self._clips_of else "unknown"
        return (
            f"step {step}: a loss or its gradient is not finite ({losses}); {kept}; try a lower --learning_rate in "
            f"another --output. The clips of this step: {clips}"
        )

    def stop(self) -> None:
        """Ends the training after this evaluation, as if its step were the last."""
        self._stopped = True

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or `stop` was called."""
        return self._stopped or self.done >= self.total

    @property
    def hours(self) -> float:
        """Since the training began, without its interruptions."""
        return round(self._hours_before + (time.monotonic() - self._started) / 3600, 6)

    def mean_losses(self) -> dict[str, float]:
        """Mean losses of the steps since the last call at an evaluation, whatever interrupted them.

        A loss that not every step has is averaged over those that have it.
        """
        self._read_losses()
        counted, self._counted = self._counted, []
        values = {name: [row[name] for row in counted if name in row] for row in counted for name in row}
        return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}

    def earlier(self, measure: str, evaluations: str = "epochs") -> list[float]:
        """A measure of the evaluations before this one, in order."""
        rows = rows_by_step(self.folder / f"{evaluations}.jsonl").items()
        return [row[measure] for step, row in rows if step < self.done and measure in row]

    def log(self, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Adds measures as of now to NAME.jsonl, and the numbers to TensorBoard, those called `val_...` side by side.

        A number that is not finite, as of clips that are all alike or silent, is left out, and a line says so.

        Returns:
            The facts that are defined.
        """
        numbers = {key: float(value) for key, value in facts.items() if not isinstance(value, (str, int))}
        undefined = [key for key, value in numbers.items() if not math.isfinite(value)]
        if undefined:
            tqdm.write(f"note: step {self.done}: undefined for these clips: {', '.join(undefined)}")
        facts = {key: value for key, value in (facts | numbers).items() if key not in undefined}
        numbers = {key: value for key, value in numbers.items() if key not in undefined}
        append_jsonl(self.folder / f"{name}.jsonl", {"step": self.done, "hours": self.hours, **facts})
        for key, value in numbers.items():
            held_out = key.startswith("val_")
            with self.board("validation" if held_out else "train"):
                tf.summary.scalar(key.removeprefix("val_"), value)
        return facts

    @contextlib.contextmanager
    def board(self, name: str) -> Iterator[None]:
        """Within the block `tf.summary` writes to TensorBoard, as of now, under the run's name NAME."""
        if name not in self._boards:
            self._boards[name] = tf.summary.create_file_writer(f"{literal_path(self.folder)}/tensorboard/{name}")
        with self._boards[name].as_default(step=self.done):
            yield
        self._boards[name].flush()

    def say(self, line: str) -> None:
        """Prints a line, unless quiet."""
        if not self.quiet:
            tqdm.write(line)

    def pace(self) -> str:
        """E.g. "153 clips/s, 8.5 min left": without evaluations, and with them."""
        if self._first_step_ended is None:
            return "no step since it was resumed"
        if self._paced_steps:
            seconds = self._paced_seconds / self._paced_steps
            whole = (time.monotonic() - self._first_step_ended) / self._paced_steps
        else:
            seconds = whole = self._first_seconds
        rate, unit = (self._clips_per_step, "clips") if self._clips_per_step else (1, "steps")
        pace = f"{rate / seconds:,.0f} {unit}/s" if rate > 2 * seconds else f"{seconds / rate:,.1f} s a {unit[:-1]}"
        return f"{pace}, {(self.total - self.done) * whole / 60:.1f} min left"


def rows_by_step(path: Path) -> dict[int, dict[str, Any]]:
    """Lines of a run's JSON-lines file by their step, in order; of steps that were repeated, the latest line."""
    rows = {row["step"]: row for row in read_jsonl(path)}
    return dict(sorted(rows.items()))


def read_steps(folder: Path) -> tuple[dict[int, float], dict[int, dict[str, float]]]:
    """Hours of training, and losses, by the steps of a run, counted from 0."""
    rows = rows_by_step(folder / f"{STEPS}.jsonl")
    for row in rows.values():
        del row["step"]
    return {step: row.pop("hours") for step, row in rows.items()}, rows


class Checkpoints:
    """All variables of a trainer in FOLDER/checkpoints: the last two states.

    Args:
        folder: of the run.
        trainer: whose variables exist already.
    """

    def __init__(self, folder: Path, trainer: tf.Module):
        self._checkpoint = tf.train.Checkpoint(trainer=trainer)
        place = f"{literal_path(folder)}/checkpoints"
        self._manager = tf.train.CheckpointManager(self._checkpoint, place, max_to_keep=2)

    def save(self, step: int) -> None:
        """Saves what the trainer is after so many steps."""
        self._manager.save(checkpoint_number=step)

    def restore(self) -> int:
        """Restores the latest state, if there is one: the steps done then, or 0."""
        latest = self._manager.latest_checkpoint
        if latest is None:
            return 0
        self._checkpoint.restore(latest).assert_existing_objects_matched()
        return int(latest.rpartition("-")[2])
