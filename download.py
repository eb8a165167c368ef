"""Download the official data and checkpoints, verified, into the places where the scripts look.

    speech-commands   Speech Commands v0.01, the digits and the lists of its splits (1.5 GB to transfer)
    sc09              the digits as they were packed for WaveGAN: train/, valid/, test/
    wavegan-NAME      the published generators: sc09, timit, birds, drums, piano

A download is in place whole, or not at all; the same command again checks what is there and does nothing else.

Examples:

    # the digits of Speech Commands, into datasets/speech_commands_v0.01
    python download.py speech-commands

    # the official SC09 generator, into checkpoint/sc09, and the data it was trained on, into datasets/sc09
    python download.py wavegan-sc09 sc09
    python generate.py --generator checkpoint/sc09

    # from a mirror, with the archive's hash as that mirror states it
    python download.py sc09 --base_url https://mirror.example/audio --sha256 sc09.tar.gz=HEX
"""

import argparse
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from utils import options
from utils.errors import UserError
from utils.runs.downloads import SUMS, Download, install

# As utils.datasets has it; importing that imports TensorFlow, which takes seconds.
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLIT_LISTS = ("validation_list.txt", "testing_list.txt")


def is_digit_file(path: PurePosixPath) -> bool:
    """Whether a member of the Speech Commands archive is a digit, a list of a split, or about the licence."""
    return path.parts[0] in (*DIGITS, *SPLIT_LISTS, "LICENSE", "README.md")


def check_generator(folder: Path) -> None:
    """Raises UserError unless the folder holds a WaveGAN that loads and computes as its graph says."""
    from models.generator import load_generator  # here, because it imports TensorFlow

    try:
        generator = load_generator(folder)
    except UserError as error:
        raise UserError(f"what was fetched is no generator, nothing was kept: {error}") from error
    if generator.network is None:
        raise UserError(f"what was fetched is no WaveGAN, nothing was kept: {'; '.join(generator.notes)}")


@dataclass(frozen=True)
class Item:
    """Something to download: what, where to, whose it is, and a command that uses it (`{}` is the folder)."""

    download: Download
    target: Path
    licence: str
    use: str


def wavegan(name: str) -> Item:
    """The published generator `name`."""
    saved_as = {
        f"{name}_infer.meta": "infer.meta",
        f"{name}.ckpt.index": "model.ckpt.index",
        f"{name}.ckpt.data-00000-of-00001": "model.ckpt.data-00000-of-00001",
    }
    return Item(
        Download(
            "https://s3.amazonaws.com/wavegan-v1/models/",
            saved_as,
            required=tuple(saved_as.values()),
            check=check_generator,
        ),
        Path("checkpoint") / name,
        "published by Chris Donahue's WaveGAN project, https://github.com/chrisdonahue/wavegan "
        "(Donahue, McAuley and Puckette: Adversarial Audio Synthesis, ICLR 2019)",
        "python generate.py --generator {}",
    )


ITEMS = {
    "speech-commands": Item(
        Download(
            "http://download.tensorflow.org/data/",
            {"speech_commands_v0.01.tar.gz": None},
            required=(*(f"{digit}/*.wav" for digit in DIGITS), *SPLIT_LISTS),
            sha256={"speech_commands_v0.01.tar.gz": "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d"},
            keep=is_digit_file,
        ),
        Path("datasets/speech_commands_v0.01"),
        "Speech Commands v0.01, Pete Warden (Google), CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
        "python train_sc09_classifier.py {}",
    ),
    "sc09": Item(
        Download(
            "http://deepyeti.ucsd.edu/cdonahue/wavegan/data/",
            {"sc09.tar.gz": None},
            required=tuple(
                f"{split}/{digit.title()}_*.wav" for split in ("train", "valid", "test") for digit in DIGITS
            ),
            root="sc09",
        ),
        Path("datasets/sc09"),
        "from Speech Commands v0.01, Pete Warden (Google), CC BY 4.0, https://creativecommons.org/licenses/by/4.0/; "
        "selected and packed by Chris Donahue for WaveGAN",
        "python train_sc09_classifier.py {}",
    ),
    **{f"wavegan-{name}": wavegan(name) for name in ("sc09", "timit", "birds", "drums", "piano")},
}


def file_and_hash(text: str) -> tuple[str, str]:
    """argparse type: `sc09.tar.gz=0123...` to the name and the hash."""
    match = re.fullmatch(r"([^=]+)=([0-9a-fA-F]{64})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must be FILE=HEX with 64 hexadecimal digits. Received: {text!r}")
    return match[1], match[2].lower()


def http_url(text: str) -> str:
    """argparse type: an http or https address."""
    if not re.match(r"https?://[^/]", text):
        raise argparse.ArgumentTypeError(f"must begin with http:// or https://. Received: {text!r}")
    return text


def parse_options() -> tuple[argparse.Namespace, dict[str, Item]]:
    """The command line, and what it asks for by name."""
    parser = options.make_parser(__doc__)
    parser.add_argument("names", nargs="+", choices=ITEMS, metavar="NAME", help=f"any of {', '.join(ITEMS)}")
    group = parser.add_argument_group("what")
    boolean = argparse.BooleanOptionalAction
    group.add_argument(
        "--all_words", action=boolean, default=False, help="keep all 30 words of speech-commands and its noises"
    )
    group.add_argument(
        "--force",
        action=boolean,
        default=False,
        help="download again; replaces the folder of an earlier download and all that was put into it",
    )
    group = parser.add_argument_group("from where")
    group.add_argument("--base_url", type=http_url, metavar="URL", help="folder of a mirror (default: the publisher's)")
    group.add_argument(
        "--sha256",
        type=file_and_hash,
        nargs="+",
        default=[],
        metavar="FILE=HEX",
        help="hashes that published files must have, instead of those known or recorded at their first download",
    )
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=Path, metavar="DIR", help="make this folder instead (with one NAME)")
    options.add_shared(group, "dry_run", "quiet")
    args = parser.parse_args()
    items = {name: ITEMS[name] for name in args.names}
    if args.output and len(items) > 1:
        raise UserError(f"--output: is the folder of one download. Received: {len(items)} names")
    if args.all_words and "speech-commands" not in items:
        raise UserError(f"--all_words: belongs to speech-commands. Received: {', '.join(items)}")
    unknown = {file for file, _ in args.sha256} - {file for item in items.values() for file in item.download.files}
    if unknown:
        raise UserError(f"--sha256: no such file in {', '.join(items)}. Received: {', '.join(sorted(unknown))}")
    if args.all_words:
        item = items["speech-commands"]
        required = (*item.download.required, "yes/*.wav", "_background_noise_/*.wav")
        download = replace(item.download, keep=lambda path: True, required=required)
        items["speech-commands"] = replace(item, download=download)
    files = [(item, file) for item in items.values() for file in item.download.files]
    addresses = [(item.download.url(file, args.base_url), args.output or item.target) for item, file in files]
    options.end_dry_run(args, *(f"would download {url} into {folder}" for url, folder in addresses))
    return args, items


def main() -> int:
    args, items = parse_options()
    failed = 0
    for name, item in items.items():
        target = args.output or item.target
        try:
            downloaded = install(
                item.download,
                target,
                base_url=args.base_url,
                sha256={file: digest for file, digest in args.sha256 if file in item.download.files},
                force=args.force,
                quiet=args.quiet,
            )
        except (UserError, OSError) as error:
            reason = f"{target}: {error.strerror}; nothing was kept" if isinstance(error, OSError) else error
            print(f"error: {name}: {reason}", file=sys.stderr)
            failed += 1
            continue
        count = len((target / SUMS).read_text().splitlines())
        print(f"{name}: {count:,} files in {target}, {'downloaded' if downloaded else 'already there'} and verified")
        if not args.quiet:
            print(f"  licence: {item.licence}\n  use it, for example: {item.use.format(target)}")
    return options.EXIT_SOME_FAILED if failed else options.EXIT_OK


if __name__ == "__main__":
    options.run(main)
