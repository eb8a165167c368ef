"""Generate audio: clips from the prior, saved latents replayed, or a walk between two latents.

Writes one float32 WAV a clip and `latents.npz`, which `--latents` replays, into a new folder of waves/.
Seed k gives the same clip in any list; `--n` takes the first N latents of one `--seed`.

Examples:

    # 16 clips of the bundled generator
    python generate.py --n 16

    # one clip each of chosen seeds
    python generate.py --seeds 0-35,40

    # replay what a run has saved: this script's latents, or those that latent_vector_recovery.py found
    python generate.py --latents waves/00000-generate/latents.npz

    # nine clips on the straight line from seed 3 to seed 8
    python generate.py --interpolate 3 8 --steps 9
"""

import argparse
import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from models.generator import Generator, load_generator
from models.tf1 import AUDIO_TENSOR, Z_TENSOR
from utils import options
from utils.audio.files import join_windows, write_wav
from utils.inversion.latents import Latents, save_latents
from utils.inversion.prior import PRIORS
from utils.options import LARGEST_SEED, UserError
from utils.runs.files import to_json, write_json
from utils.runs.folders import output_folder


def parse_seeds(text: str) -> list[int]:
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


def read_latents(path: Path, generator: Generator) -> tuple[np.ndarray, dict]:
    """An npz file's `z` (`[W, latent_dim]` or `[latent_dim]`), and its `provenance` if it has one.

    Returns:
        z float32 `[W, latent_dim]`; a dict, empty or as in `utils.audio.files.Clip`.

    Raises:
        UserError: when the file or its z does not fit the generator.
    """
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in ("z", "generator", "provenance") if name in file}
        provenance = json.loads(str(found.get("provenance", "{}")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # zipfile, zlib, json and NumPy raise many kinds for damaged files
        raise UserError(f"{path}: damaged, or no npz file ({error})") from error
    if "z" not in found:
        raise UserError(f"{path}: must be an npz file with the key z")
    z = np.atleast_2d(found["z"])
    if z.ndim != 2 or z.shape[1] != generator.latent_dim or z.dtype.kind not in "fiu" or not len(z):
        raise UserError(
            f"{path}: z must be numbers [W, {generator.latent_dim}] for {generator.name}. "
            f"Received: {z.dtype} {list(z.shape)}"
        )
    if not np.isfinite(z).all():
        raise UserError(f"{path}: z holds NaN or infinite values")
    if str(found.get("generator", generator.fingerprint)) != generator.fingerprint:
        print(f"warning: {path}: its latents belong to another generator than {generator.name}", file=sys.stderr)
    return z.astype(np.float32), provenance


@dataclasses.dataclass
class Piece:
    """One WAV to be: z float32 `[1, latent_dim]`, or a row for each window that `provenance` tells of."""

    name: str
    z: np.ndarray
    provenance: dict = dataclasses.field(default_factory=dict)


def resolve_pieces(args: argparse.Namespace, generator: Generator) -> list[Piece]:
    """What the options ask for."""
    if args.latents:
        pieces = []
        for i, path in enumerate(args.latents):
            z, provenance = read_latents(path, generator)
            name = path.stem if len(args.latents) == 1 else f"{i:04d}_{path.stem}"
            if len(provenance.get("window_starts", [])) == len(z):
                pieces.append(Piece(name, z, provenance))
            elif len(z) == 1:
                pieces.append(Piece(name, z))
            else:
                pieces += [Piece(f"{name}_{row:04d}", z[row : row + 1]) for row in range(len(z))]
        return pieces
    if args.interpolate:
        first, last = (_endpoint(text, generator) for text in args.interpolate)
        weights = np.linspace(0, 1, args.steps, dtype=np.float32)
        return [Piece(f"step_{i:04d}", (1 - w) * first + w * last) for i, w in enumerate(weights)]
    if args.seeds:
        return [Piece(f"seed_{seed:04d}", generator.sample_prior(seed, 1)) for seed in args.seeds]
    z = generator.sample_prior(args.seed, args.n)
    return [Piece(f"{i:04d}", z[i : i + 1]) for i in range(args.n)]


def _endpoint(text: str, generator: Generator) -> np.ndarray:
    if text.isascii() and text.isdigit():
        if int(text) > LARGEST_SEED:
            raise UserError(f"--interpolate: a seed is at most {LARGEST_SEED}. Received: {text}")
        return generator.sample_prior(int(text), 1)
    return read_latents(Path(text), generator)[0][:1]


def windows(generator: Generator, z: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """The audio `[T, C]` of each row of z, computed in batches.

    Every batch is filled up: a latent then gives the same samples to the last bit, alone or among others.
    """
    generate = tf.function(generator)
    for start in range(0, len(z), batch_size):
        batch = z[start : start + batch_size]
        filled = np.pad(batch, [(0, batch_size - len(batch)), (0, 0)])
        yield from generate(tf.constant(filled)).numpy()[: len(batch)]


def main() -> None:
    parser = options.make_parser(__doc__)
    group = parser.add_argument_group("what to generate (one of them)").add_mutually_exclusive_group()
    group.add_argument(
        "--n", type=options.positive_int, default=16, metavar="N", help="N clips from the prior, of --seed"
    )
    group.add_argument("--seeds", type=parse_seeds, metavar="LIST", help="one clip a seed, e.g. 0-35,40")
    group.add_argument(
        "--latents",
        type=Path,
        nargs="+",
        metavar="NPZ",
        help="replay the key z, [W, latent_dim], of these files",
    )
    group.add_argument(
        "--interpolate",
        nargs=2,
        metavar=("A", "B"),
        help="from A to B in a straight line; each a seed or an npz",
    )
    group = parser.add_argument_group("options of these")
    options.add_shared(group, "seed")
    group.add_argument(
        "--steps",
        type=options.positive_int,
        default=9,
        metavar="N",
        help="clips of --interpolate, both ends included, at least 2",
    )
    group = parser.add_argument_group("generator")
    options.add_shared(group, "generator", "precision", "batch_size")
    group.add_argument(
        "--sample_rate",
        type=options.positive_int,
        metavar="HZ",
        help="written into the WAVs (default: what comes with the generator, else 16000)",
    )
    group.add_argument("--prior", choices=PRIORS, help="(default: what comes with the generator, else uniform)")
    group.add_argument("--z_tensor", default=Z_TENSOR, metavar="NAME", help="input of a TF1 or frozen graph")
    group.add_argument("--audio_tensor", default=AUDIO_TENSOR, metavar="NAME", help="its output")
    options.add_shared(parser.add_argument_group("output"), "output", "dry_run", "quiet")
    args = parser.parse_args()
    if args.interpolate and args.steps < 2:
        raise UserError(f"--steps: must be at least 2. Received: {args.steps}")
    record = vars(args)
    if args.dry_run:
        print(to_json(record, indent=2))
        print(f"would write WAVs and latents.npz into {args.output or 'a new folder of waves/'}")
        return

    generator = load_generator(
        args.generator,
        args.precision,
        z_tensor=args.z_tensor,
        audio_tensor=args.audio_tensor,
        sample_rate=args.sample_rate,
        prior=args.prior,
    )
    for note in [] if args.quiet else generator.notes:
        print(note)
    pieces = resolve_pieces(args, generator)
    z = np.concatenate([piece.z for piece in pieces])
    output = output_folder(args.output, Path("waves"), "generate")
    write_json(output / "options.json", record)
    method = "replay" if args.latents else "interpolation" if args.interpolate else "prior"
    latents = Latents(z=z, generator=generator.fingerprint, method=method, seed=args.seed, options=record)
    save_latents(output / "latents.npz", latents)
    stream = windows(generator, z, args.batch_size)
    for piece in tqdm(pieces, unit="clip", disable=args.quiet):
        audio = np.stack(list(itertools.islice(stream, len(piece.z))))
        audio = join_windows(audio, piece.provenance) if piece.provenance else audio[0]
        write_wav(output / f"{piece.name}.wav", audio, generator.sample_rate)
    print(f"{len(pieces)} clips at {generator.sample_rate} Hz written to {output}")


if __name__ == "__main__":
    options.run(main)
