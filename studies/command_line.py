"""Options that studies of real clips have in common."""

import argparse
from pathlib import Path

from utils import options
from utils.runs.cache import cache_folder


def add_networks(parser: argparse.ArgumentParser) -> None:
    """Declares networks, batches, and where clips and the record are kept."""
    options.add_shared(parser, "generator", "encoder", "classifier", "judge", "precision", judge=options.JUDGES)
    options.add_shared(parser, "batch_size", "seed", batch_size=32)
    cache = "where decoded clips are kept"
    parser.add_argument("--cache", type=Path, default=cache_folder(), metavar="DIR", help=cache)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the record goes")
