"""A training run: its folder, where it stands, what it writes, when it saves and when it stops.

A training script reads:

    with TrainingRun(args.output, "wavegan-drums", vars(args), changeable=CHANGEABLE, quiet=args.quiet) as run:
        checkpoints = Checkpoints(run.folder, trainer)
        for step in run.steps(
            args.steps, done=checkpoints.step, save=checkpoints.save, evaluate_every=500, save_minutes=args.save_minutes
        ):
            run.count(train_step(step))
            if run.evaluation_due:
                run.log("statistics", run.mean_losses() | evaluate())

What step t is trained on must be a function of the seed and t: then a resumed run repeats an uninterrupted one. The
folder holds options.json, log.txt, steps.jsonl (losses of every step), what `log` writes and tensorboard/.
"""

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tqdm import tqdm

from utils.errors import UserError
from utils.runs.files import append_jsonl, literal_path, read_jsonl
from utils.runs.folders import keep_options, output_folder, require_folder, tee_log
from utils.runs.interrupts import on_interrupt, resume_command
from utils.runs.progress import progress_bar

STEPS = "steps"


class TrainingRun:
    """A context: within it the run's folder stands, with its options, and the log is written.

    Ctrl-C within it raises KeyboardInterrupt with the command that goes on as its message; while `steps` runs, the
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
        self._stack = contextlib.ExitStack()
        self._boards: dict[str, tf.summary.SummaryWriter] = {}

    def __enter__(self) -> "TrainingRun":
        self.folder = self._output
        if self.is_chief:
            self.folder = output_folder(self._output, Path("logs"), self._description)
        keep_options(
            self.folder, self._options, changeable=self._changeable, positional=("input",), write=self.is_chief
        )
        if self.is_chief:
            self._stack.enter_context(tee_log(self.folder / "log.txt"))
        self.say(str(self.folder))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for board in self._boards.values():
            board.close()
        self._stack.__exit__(kind, error, trace)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(resume_command(self.folder, self._output)) from None

    def steps(
        self,
        total: int,
        *,
        done: int,
        save: Callable[[int], None],
        evaluate_every: int,
        save_minutes: float,
        minutes: float | None = None,
        clips_of: Callable[[int], Sequence[str]] | None = None,
        clips_per_step: int = 0,
    ) -> Iterator[int]:
        """Numbers of the steps to do. The loop's body calls `count` once; where `evaluation_due`, it evaluates.

        A checkpoint is saved after each evaluation, every `save_minutes`, and when the loop ends. What a killed run did
        since then is done again.

        Args:
            total: steps in all.
            done: steps that the restored checkpoint has done; 0 without one.
            save: writes a checkpoint, atomically; its argument is the number of steps done.
            evaluate_every: steps between two evaluations; there is one at the end too.
            save_minutes: most minutes between two checkpoints.
            minutes: stop after so many, ready to continue; None: never.
            clips_of: names of the clips that a step is trained on, for the message of a loss that is not finite.
            clips_per_step: clips that a step is trained on, for the pace; 0: the pace is in steps.
        """
        self.done, self.total, self._evaluate_every = done, total, evaluate_every
        self._clips_of, self._clips_per_step, self._has_checkpoint = clips_of, clips_per_step, done > 0
        hours, losses = _read_steps(self.folder)
        self._hours_before = hours.get(done - 1, 0.0)
        self._counted = [losses[step] for step in range(done - done % evaluate_every, done) if step in losses]
        self._started = self._saved = self._step_started = time.monotonic()
        self._paced_steps, self._paced_seconds, self._stopped = 0, 0.0, False
        self._first_step_ended: float | None = None
        bar = progress_bar("training", total, unit="step", quiet=self.quiet, initial=done, leave=False)
        self._bar = self._stack.enter_context(contextlib.closing(bar))
        interrupt = self._stack.enter_context(on_interrupt(finish_step=True))
        with bar:
            while self.done < total:
                self._step_started = time.monotonic()
                yield self.done
                out_of_time = minutes is not None and time.monotonic() - self._started > 60 * minutes
                save_due = time.monotonic() - self._saved > 60 * save_minutes
                if self.is_chief and (
                    self.evaluation_due or save_due or interrupt.asked or out_of_time or self._stopped
                ):
                    save(self.done)
                    self._saved, self._has_checkpoint = time.monotonic(), True
                if self._stopped:
                    return
                if interrupt.asked and self.done < total:
                    raise KeyboardInterrupt
                if out_of_time and self.done < total:
                    goes_on = resume_command(self.folder, self._output).removeprefix("Interrupted. ")
                    tqdm.write(f"Stopped after {minutes:g} minutes and {self.done} steps. {goes_on}")
                    return

    def count(self, losses: Mapping[str, Any]) -> None:
        """Counts the step that has just been done.

        Args:
            losses: name to scalar.

        Raises:
            UserError: for a loss that is not finite, naming the clips of the step; where the folder has vanished.
        """
        losses = {name: float(value) for name, value in losses.items()}
        if not all(map(math.isfinite, losses.values())):
            kept = "the last checkpoint is as it was saved before" if self._has_checkpoint else "nothing had been saved"
            clips = ", ".join(dict.fromkeys(self._clips_of(self.done))) if self._clips_of else "unknown"
            raise UserError(
                f"step {self.done}: a loss or its gradient is not finite ({losses}); {kept}; try a lower "
                f"--learning_rate in another --output. The clips of this step: {clips}"
            )
        now = time.monotonic()
        if self._first_step_ended is None:  # building the graph is no pace
            self._first_step_ended = now
            self._first_seconds = now - self._step_started
        else:
            self._paced_steps += 1
            self._paced_seconds += now - self._step_started
        if self.is_chief:
            require_folder(self.folder)
            append_jsonl(self.folder / f"{STEPS}.jsonl", {"step": self.done, "hours": self.hours, **losses})
            self._counted.append(losses)
        self.done += 1
        self._bar.update()

    @property
    def evaluation_due(self) -> bool:
        """Whether the last step was the end of a stretch of `evaluate_every`, or of the training."""
        return self.done % self._evaluate_every == 0 or self.done == self.total

    def stop(self) -> None:
        """Ends the training after this step, which is saved, as if it were the last."""
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
        counted, self._counted = self._counted, []
        values = {name: [row[name] for row in counted if name in row] for row in counted for name in row}
        return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}

    def log(self, name: str, facts: Mapping[str, Any]) -> None:
        """Adds measures as of now to NAME.jsonl, and the numbers to TensorBoard, those called `val_...` side by side.

        Raises:
            UserError: for a number that is not finite.
        """
        numbers = {key: float(value) for key, value in facts.items() if not isinstance(value, (str, int))}
        broken = [key for key, value in numbers.items() if not math.isfinite(value)]
        if broken:
            raise UserError(f"step {self.done}: not finite: {', '.join(broken)}; try a lower --learning_rate")
        if not self.is_chief:
            return
        append_jsonl(self.folder / f"{name}.jsonl", {"step": self.done, "hours": self.hours, **facts, **numbers})
        for key, value in numbers.items():
            held_out = key.startswith("val_")
            with self.board("validation" if held_out else "train"):
                tf.summary.scalar(key.removeprefix("val_"), value)

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


def losses_by_step(folder: Path) -> dict[int, dict[str, float]]:
    """Losses of every step of a run, counted from 0."""
    return _read_steps(folder)[1]


def _read_steps(folder: Path) -> tuple[dict[int, float], dict[int, dict[str, float]]]:
    """(hours of training, losses) of every step of a run."""
    rows = rows_by_step(folder / f"{STEPS}.jsonl")
    for row in rows.values():
        del row["step"]
    return {step: row.pop("hours") for step, row in rows.items()}, rows


class Checkpoints:
    """What a trainer needs to go on, in FOLDER/checkpoints: the last two; restored when made.

    Args:
        folder: of the run.
        trainer: all its variables, which exist already, are saved and restored.

    Attributes:
        step: steps done when the restored checkpoint was saved; 0 where there is none.
    """

    def __init__(self, folder: Path, trainer: tf.Module):
        checkpoint = tf.train.Checkpoint(trainer=trainer)
        self._manager = tf.train.CheckpointManager(checkpoint, f"{literal_path(folder)}/checkpoints", max_to_keep=2)
        latest, self.step = self._manager.latest_checkpoint, 0
        if latest:
            checkpoint.restore(latest).assert_existing_objects_matched()
            self.step = int(latest.rpartition("-")[2])

    def save(self, step: int) -> None:
        """Saves what the trainer is after so many steps."""
        self._manager.save(checkpoint_number=step)
