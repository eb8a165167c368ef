"""Command lines: the options that mean the same in every script, presets, and how a script ends.

A script reads:

    def parse_options():
        parser = options.make_parser(__doc__)
        options.add_shared(parser.add_argument_group("model"), "generator", "preset", "dry_run")
        args = options.apply_preset(parser.parse_args(), parser, PRESETS)
        options.end_dry_run(args, "Would ...")
        return args

    if __name__ == "__main__":
        options.parse_early(parse_options)

    import tensorflow as tf

    def main():
        args = parse_options()
        ...

    if __name__ == "__main__":
        options.run(main)
"""

import argparse
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from utils.bundled import bundled
from utils.errors import UserError
from utils.inversion.names import METHODS
from utils.objectives import format_weights, parse_weights
from utils.runs.endings import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from utils.runs.endings import EXIT_OK, EXIT_USAGE, print_error
from utils.runs.endings import EXIT_SOME_FAILED as EXIT_SOME_FAILED
from utils.runs.endings import parse_early as parse_early
from utils.runs.endings import run as run

PRESETS = ("aligned", "paper")
DATA = ("datasets/sc09", "datasets/speech_commands_v0.01")  # where download.py puts them
PRECISIONS = ("float32", "mixed_bfloat16")
SOLVERS = ("batched", "scipy")
WINDOWS = ("start", "loudest", "all")
LARGEST_SEED = 2**31 - 1
SPACES = ("z", "projected")
# What is minimised where no --objective is given. The generator's own samples can be matched sample by sample; mr_stft
# finds them more often. Other clips are compared by log-mel and classifier features: on speech the first objective is
# smallest near silence.
OWN_OBJECTIVE = "stft_real=1,waveform=1,mr_stft=0.1"
REAL_OBJECTIVE = "log_mel=1,features=3"
# Preset `paper` of every script that recovers latents. The feature's weight is that of the published script that made
# the paper's tables; its inversion script has 1.
PAPER_RECOVERY = {
    "encoder": "inverse_mapping_checkpoint/encoder_paper.keras",
    "classifier": "classifier_checkpoint/classifier_paper.keras",
    "alignment": "paper",
    "objective": "stft_real=1,waveform=1,feature=0.002",
    "solver": "scipy",
    "clip_to_prior": False,
    "max_iter": 50_000,
    "hybrid_max_iter": 200,
}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The docstring as written; defaults shown, except None, whose meaning the help text tells."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Switch(argparse.Action):
    """An option without a value that can be turned off again: `--name` and `--no_name`."""

    def __init__(self, option_strings, dest, default=False, help=None):
        names = [*option_strings, *(f"--no_{name.removeprefix('--')}" for name in option_strings)]
        super().__init__(names, dest, nargs=0, default=default, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, not option_string.startswith("--no_"))

    def format_usage(self) -> str:
        return " | ".join(self.option_strings)


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, takes `--batch-size` for `--batch_size`, remembers which options were given.

    Attributes:
        explicit: destinations of the options given explicitly in the latest parse.
    """

    explicit: frozenset[str] = frozenset()

    def parse_known_args(self, args=None, namespace=None):
        words = list(sys.argv[1:] if args is None else map(str, args))
        options_end = words.index("--") if "--" in words else len(words)
        words[:options_end] = map(_with_underscores, words[:options_end])
        # argparse leaves alone what the namespace has: what still is SUPPRESS afterwards was not given.
        defaults = {action.dest: action.default for action in self._actions if action.option_strings}
        defaults = {name: default for name, default in defaults.items() if default is not argparse.SUPPRESS}
        namespace = argparse.Namespace(**dict.fromkeys(defaults, argparse.SUPPRESS))
        result, rest = super().parse_known_args(words, namespace)
        self.explicit = frozenset(name for name in defaults if getattr(result, name) is not argparse.SUPPRESS)
        for name in defaults.keys() - self.explicit:
            setattr(result, name, defaults[name])
        return result, rest

    def error(self, message: str) -> NoReturn:
        print_error(f"{message} (--help shows all options)")
        sys.exit(EXIT_USAGE)


def _with_underscores(word: str) -> str:
    """`--batch-size=8` as `--batch_size=8`; any other word as it is."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Parser of a script whose `--help` opens with the script's docstring, line breaks kept.

    Options cannot be abbreviated, are spelled with underscores or dashes, and a usage error is one line on stderr and
    exit code 2.

    Args:
        doc: the script's `__doc__`: what it does and runnable examples; None under `python -OO`.
    """
    return _Parser(description=(doc or "").strip(), formatter_class=_HelpFormatter, allow_abbrev=False)


def positive_int(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    return _whole_number(text, 1)


def non_negative_int(text: str) -> int:
    """argparse type: a whole number of at least 0."""
    return _whole_number(text, 0)


def positive_float(text: str) -> float:
    """argparse type: a finite number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number above 0. Received: {text!r}")
    return value


def non_negative_float(text: str) -> float:
    """argparse type: a finite number of at least 0."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number of at least 0. Received: {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _whole_number(text: str, smallest: int, largest: float = math.inf) -> int:
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or not smallest <= value <= largest:
        bounds = f"of at least {smallest}" if largest == math.inf else f"from {smallest} to {largest}"
        raise argparse.ArgumentTypeError(f"must be a whole number {bounds}. Received: {text!r}")
    return value


def _seed(text: str) -> int:
    return _whole_number(text, 0, LARGEST_SEED)


def seed_list(text: str) -> list[int]:
    """argparse type: `0-3,7` to `[0, 1, 2, 3, 7]`."""
    seeds = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip(), re.ASCII)
        if not match:
            raise argparse.ArgumentTypeError(f"must be like 0-35,40. Received: {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last <= LARGEST_SEED:
            raise argparse.ArgumentTypeError(f"ranges must rise and end by {LARGEST_SEED}. Received: {part.strip()!r}")
        seeds.extend(range(first, last + 1))
    return list(dict.fromkeys(seeds))


def _objective(text: str) -> str:
    return format_weights(parse_weights(text))


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must name a path. Received an empty text")
    return text


def _path(text: str) -> Path:
    return Path(_name(text))


def _network(text: str) -> str | None:
    """A path; `none` -> None, for a network that a script can do without."""
    return None if text == "none" else _name(text)


def network_list(text: str) -> tuple[str, ...] | None:
    """`a,b` -> ("a", "b"); `none` -> None."""
    return None if text == "none" else tuple(map(_name, text.split(",")))


# The judges that come with the project, for scripts that score.
JUDGES = ("classifier_checkpoint/judge_mel.keras", "classifier_checkpoint/judge_wave.keras")
# Options whose default is a file that comes with the project.
BUNDLED = ("generator", "encoder", "classifier", "judge")

_SHARED: dict[str, dict[str, Any]] = {
    "generator": dict(
        default="checkpoint/",
        metavar="PATH",
        help="the GAN: a TF1 WaveGAN folder (infer.meta and model.ckpt*), a frozen .pb, a SavedModel folder, "
        "a .keras file, or package.module:factory",
    ),
    "encoder": dict(
        default="inverse_mapping_checkpoint/",
        metavar="PATH",
        type=_network,
        help="the trained encoder (audio to latent) that recovery starts from: a .keras file, a folder with one, or "
        "`none` for what does without: the method gradient, and a search from a bank of samples",
    ),
    "classifier": dict(
        default="classifier_checkpoint/",
        metavar="PATH",
        type=_network,
        help="the digit classifier whose activations serve as a loss, read where a loss needs them: a .keras file, "
        "a folder with classifier.keras, or `none`",
    ),
    "judge": dict(
        default=None,
        type=network_list,
        metavar="PATH[,PATH...]",
        help="the digit classifiers that score results, or `none`; give such as took no part in any loss, or the "
        "scores are circular (default: none)",
    ),
    "trust": dict(
        default=False,
        action="store_true",
        help="run the Python code that --generator and --encoder bring with them: a factory, Lambda layers in a .keras "
        "file, graph operations that reach outside of TensorFlow",
    ),
    "preset": dict(
        default="aligned",
        choices=PRESETS,
        help="a named set of the other options: aligned brings clips to what the generator was trained on, "
        "paper has the published protocol and the bundled networks of the paper's kind; an option given by "
        "itself wins over the preset",
    ),
    "precision": dict(
        default="float32",
        choices=PRECISIONS,
        help="arithmetic of the networks: mixed_bfloat16 computes in bfloat16 with float32 weights, about "
        "twice as fast where the hardware has it (CPUs: avx512_bf16 or amx_bf16), two and a half times slower where it "
        "has not, with waveform errors near 0.01",
    ),
    "output": dict(
        default=None,
        type=_path,
        metavar="DIR",
        help="folder of all that the run writes; an existing one is continued (default: a new numbered one)",
    ),
    "limit": dict(
        default=None,
        type=positive_int,
        metavar="N",
        help="take only the first N inputs, in sorted order, at least 1 (default: all of them)",
    ),
    "batch_size": dict(
        default=16,
        type=positive_int,
        metavar="N",
        help="clips computed together, at least 1; more are faster and take more memory",
    ),
    "seed": dict(
        default=0,
        type=_seed,
        metavar="N",
        help=f"start of every random stream, 0 to {LARGEST_SEED}; same seed, same machine: same result",
    ),
    "dry_run": dict(
        default=False,
        action="store_true",
        help="print the resolved options and what would be done, then stop",
    ),
    "quiet": dict(
        default=False,
        action="store_true",
        help="print only warnings, errors and where the results are",
    ),
    "save_minutes": dict(
        default=10.0,
        type=positive_float,
        metavar="X",
        help="most minutes of training between two checkpoints",
    ),
    "keep_epochs": dict(
        default=False,
        action=Switch,
        help="keep the weights of every epoch, in epochs/, not only those of the best and of the last one",
    ),
    "minutes": dict(
        default=None,
        type=positive_float,
        metavar="X",
        help="stop after X minutes of training, ready to resume (default: at the last step)",
    ),
    "method": dict(
        default=None,
        choices=(*METHODS, "all"),
        help="how z is found: encoder (one forward pass), gradient (L-BFGS from the prior, without an encoder), hybrid "
        "(L-BFGS from the encoder's answer; these are the paper's), search (from the encoder's answer the latent "
        "itself; where a clip has none, L-BFGS), or all four (default: search; hybrid with --preset paper and with "
        "--space projected, where nothing but L-BFGS is to be had)",
    ),
    "solver": dict(
        default="batched",
        choices=SOLVERS,
        help="L-BFGS of many clips at once, or SciPy's L-BFGS-B one clip at a time, as in the paper",
    ),
    "space": dict(
        default="z",
        choices=SPACES,
        help="what is searched: the latent, or the output of a WaveGAN's dense layer, by which clips out of range are "
        "approximated better, but which is not a latent of the prior",
    ),
    "max_iter": dict(
        default=400,
        type=positive_int,
        metavar="N",
        help="most iterations per clip and start, at least 1; one of L-BFGS costs one to two evaluations",
    ),
    "restarts": dict(
        default=1,
        type=positive_int,
        metavar="K",
        help="starts from the prior per clip, at least 1; the one with the smallest objective is kept",
    ),
    "objective": dict(
        default=None,
        type=_objective,
        metavar="TERM=WEIGHT,...",
        help="what is minimised over z: a weighted sum of named terms (default: for the generator's own samples "
        f"{OWN_OBJECTIVE}, for other clips {REAL_OBJECTIVE}, without features where no classifier is of its clips; "
        f"preset paper: {PAPER_RECOVERY['objective']}, as in the published metric script; the inversion script's is "
        "feature=1)",
    ),
    "clip_to_prior": dict(
        default=True,
        action=Switch,
        help="keep z inside the prior's box; for a generator with a uniform prior",
    ),
    "window": dict(
        default="start",
        choices=WINDOWS,
        help="which part of a clip longer than the generator's output: its start, its loudest part, "
        "or all of it, window after window",
    ),
}


def add_shared(group: argparse.ArgumentParser | argparse._ArgumentGroup, *names: str, **defaults: Any) -> None:
    """Declares shared options, spelled `--name`, in a parser or one of its groups.

    Args:
        group: where they are declared.
        names: names of shared options, without dashes.
        defaults: this script's own default of an option in `names`.

    Raises:
        ValueError: for a name that is not a shared option, or a default of an option not in `names`.
    """
    unknown = [name for name in names if name not in _SHARED] + sorted(set(defaults) - set(names))
    if unknown:
        raise ValueError(f"not among the shared options named here. Received: {', '.join(unknown)}")
    for name in names:
        declaration = dict(_SHARED[name])
        if name in defaults:
            declaration["default"] = defaults[name]
            declaration["help"] = declaration["help"].split(" (default: ")[0]  # what the text says of None
        if name in BUNDLED:
            declaration["default"] = _bundled(declaration["default"])
        group.add_argument(f"--{name}", **declaration)


def _bundled(default: str | Sequence[str] | None) -> str | tuple[str, ...] | None:
    """A default of a bundled file or of several, as they are named from the current folder."""
    if default is None:
        return None
    if not isinstance(default, str):
        return tuple(str(bundled(name)) for name in default)
    path = bundled(default)
    return default if path == Path(default) else str(path)


def add_input(parser: argparse.ArgumentParser, help: str, *places: str) -> None:
    """Declares the positional INPUT that every script reads its audio from; `args.input` is a Path.

    Args:
        parser: the script's.
        help: what the audio is for.
        places: folders where it is looked for when none is named. Without any it must be named.
    """
    found = next((place for place in places if Path(place).exists()), places[0] if places else None)
    help += f" (default: %(default)s, of {' and '.join(places)} the first that is there)" if len(places) > 1 else ""
    default = found and Path(found)
    parser.add_argument("input", type=_path, metavar="INPUT", nargs="?" if places else None, default=default, help=help)


def apply_preset(
    args: argparse.Namespace,
    parser: argparse.ArgumentParser,
    presets: Mapping[str, Mapping[str, Any]],
    option: str = "preset",
) -> argparse.Namespace:
    """Sets the options of the preset `args.preset`, except those given on the command line.

    A flag given explicitly wins even where its value equals its default.

    Args:
        args: what `parser` has just parsed; changed in place.
        parser: the parser, from `make_parser`.
        presets: option values by preset name, keys without dashes, e.g. `{"paper": {"max_iter": 50000}}`.
        option: the name of the option that names the preset.

    Returns:
        args.

    Raises:
        UserError: when this script has no preset of that name.
        ValueError: when the preset sets an option that the parser does not have.
    """
    preset = getattr(args, option)
    if preset not in presets:
        raise UserError(f"--{option}: must be one of {', '.join(presets)}. Received: {preset!r}")
    for name, value in presets[preset].items():
        if not hasattr(args, name):
            raise ValueError(f"{option} {preset!r} sets an undeclared option. Received: {name!r}")
        if name not in parser.explicit:
            setattr(args, name, _bundled(value) if name in BUNDLED else value)
    return args


def changed_options(
    args: argparse.Namespace,
    parser: argparse.ArgumentParser,
    presets: Mapping[str, Mapping[str, Any]],
    names: Iterable[str],
) -> dict[str, Any]:
    """Those of the named options whose value is not what `args.preset` alone, without other options, would give."""
    preset = presets[args.preset]
    return {n: getattr(args, n) for n in names if getattr(args, n) != preset.get(n, parser.get_default(n))}


def end_dry_run(args: argparse.Namespace, *lines: str) -> None:
    """Ends the process where `--dry_run` is given: prints the resolved options and, in `lines`, what would be done."""
    if not args.dry_run:
        return
    width = max(map(len, vars(args))) + 1
    for name, value in vars(args).items():
        print(f"{name:{width}} {value}")
    print(*lines, sep="\n")
    sys.exit(EXIT_OK)
