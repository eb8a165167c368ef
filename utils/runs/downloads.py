"""Published files fetched, verified and put in place: whole under their final name, or not there at all.

Where the publisher states no SHA-256, the one found at the first download is written to `downloads.sha256` beside
the folder, and every later download is held against it. The folder itself carries `SHA256SUMS` of all its files.
Both are what `sha256sum` writes.
"""

import contextlib
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from utils.errors import UserError
from utils.runs import locks
from utils.runs.files import atomic_path, file_sha256

SUMS = "SHA256SUMS"
RECORD = "downloads.sha256"
TIMEOUT = 30  # seconds without a byte
CHUNK = 2**17  # bytes; pooch's default of 1024 keeps a core busy


@dataclass(frozen=True)
class Download:
    """Files that are published together and make up one folder.

    Attributes:
        base_url: the folder they are published in.
        files: published name to name in the folder made; None for a tar archive to be unpacked.
        required: glob patterns, each of which a complete folder matches.
        sha256: published name to hexadecimal SHA-256, where the publisher or a trusted source states it.
        root: folder inside the archives whose content makes up the folder; empty for all of it.
        keep: which members of an archive are unpacked, by their path inside `root`.
        check: called with the complete folder before it gets its name; raises UserError to refuse it.
    """

    base_url: str
    files: Mapping[str, str | None]
    required: tuple[str, ...]
    sha256: Mapping[str, str] = field(default_factory=dict)
    root: str = ""
    keep: Callable[[PurePosixPath], bool] = lambda path: True
    check: Callable[[Path], None] = lambda folder: None

    def url(self, name: str, base_url: str | None = None) -> str:
        """Address of the published file `name`, at `base_url` if given."""
        return f"{(base_url or self.base_url).rstrip('/')}/{name}"


def install(
    download: Download,
    target: Path,
    *,
    base_url: str | None = None,
    sha256: Mapping[str, str] | None = None,
    force: bool = False,
    quiet: bool = False,
) -> bool:
    """Makes the folder `target`, unless it is already there and all its files are as they were downloaded.

    All work is done in `.download-NAME` beside it, which is renamed at the end and removed in any case; what a
    killed process left there is removed by the next.

    Args:
        download: what to fetch.
        target: the folder to make.
        base_url: where to fetch it instead of `download.base_url`.
        sha256: expected hashes that take precedence over all others, by published name.
        force: fetch it again and replace the folder, which must be an earlier download.
        quiet: no progress bars.

    Returns:
        True when it was downloaded, False when it was there.

    Raises:
        UserError: when something else stands in the place, what stands there is incomplete, or the download fails.
        OSError: when the disk is full or the folder cannot be written.
    """
    target = Path(os.path.abspath(target))
    given = dict(sha256 or {})
    record_path = target.parent / RECORD
    recorded = read_sums(record_path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        if not (target / SUMS).is_file():
            raise UserError(f"{target}: exists and is no earlier download; move it away, or choose another --output")
        if not force:
            _verify(download, target, {**download.sha256, **given}, recorded)
            return False

    known = (
        (given, "given by --sha256"),
        (download.sha256, "published"),
        (recorded, f"recorded at its first download in {record_path}"),
    )
    with _staging(target) as staging:
        content = staging / "content"
        content.mkdir()
        found = {}
        for name, saved_as in download.files.items():
            expected, origin = next(((hashes[name], origin) for hashes, origin in known if name in hashes), (None, ""))
            url, fetched = download.url(name, base_url), staging / name
            fetch(url, fetched, sha256=expected, origin=origin, quiet=quiet)
            found[name] = file_sha256(fetched)
            if saved_as is None:
                extract(fetched, content, root=download.root, keep=download.keep, quiet=quiet)
            else:
                fetched.rename(content / saved_as)
        missing = _missing(download, content)
        if missing:
            raise UserError(
                f"{', '.join(found)}: incomplete, holds nothing that matches {', '.join(missing[:3])}; nothing was kept"
            )
        download.check(content)
        write_sums(content / SUMS, _hash_folder(content))
        write_sums(record_path, read_sums(record_path) | found)  # others may have written since
        if target.exists():
            target.rename(staging / "replaced")
        content.rename(target)
    return True


def fetch(url: str, path: Path, *, sha256: str | None = None, origin: str = "given", quiet: bool = False) -> None:
    """Downloads one file.

    Args:
        url: its address, http or https.
        path: where it is written.
        sha256: expected hash, hexadecimal; None to take what comes.
        origin: where the expected hash comes from, for the error message.
        quiet: no progress bar.

    Raises:
        UserError: when the server cannot be reached or refuses, the transfer breaks off, or the hash is wrong.
        OSError: when the disk is full or `path` cannot be written.
    """
    import pooch  # here, so that --help need not wait for it
    import requests

    pooch.get_logger().setLevel("ERROR")  # the progress bar says as much
    try:
        with tqdm(total=1, desc=path.name, unit="B", unit_scale=True, disable=quiet) as bar:
            download = pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK, timeout=TIMEOUT)
            pooch.retrieve(url, sha256, path.name, path.parent, downloader=download)
        return
    except requests.HTTPError as error:
        reason = f"the server answered {error.response.status_code} {error.response.reason}"
    except requests.ConnectionError as error:
        cause = getattr(error.args[0], "reason", error) if error.args else error
        reason = f"cannot be reached, is there a network? ({str(cause).rpartition(': ')[2]})"
    except requests.Timeout:
        reason = f"no answer within {TIMEOUT} s"
    except requests.RequestException as error:
        reason = f"the transfer broke off ({error})"
    except ValueError as error:  # pooch's, of a hash
        reason = f"wrong {str(error).partition('. ')[0]} ({origin})"
    raise UserError(f"{url}: {reason}; nothing was kept")


def extract(
    archive: Path,
    folder: Path,
    *,
    root: str = "",
    keep: Callable[[PurePosixPath], bool] = lambda path: True,
    quiet: bool = False,
) -> None:
    """Unpacks the plain files of a tar archive, compressed or not; links and devices stay in it.

    Not by pooch's Untar, which looks at where members lead from Python 3.12 on only, and reads the archive once for
    each that is wanted.

    Args:
        archive: the tar file.
        folder: nothing is written outside of it.
        root: folder of the archive whose content is unpacked; empty for all of it.
        keep: which files are unpacked, by their path inside `root`.
        quiet: no progress bar.

    Raises:
        UserError: when the archive is damaged or truncated, or holds a path that leads outside of `folder`.
    """
    try:
        with tarfile.open(archive) as members, tqdm(desc="unpacking", unit="file", disable=quiet) as bar:
            for member in members:
                path = PurePosixPath(member.name)
                if ".." in path.parts:
                    raise UserError(f"{archive.name}: refused, {member.name!r} leads outside; nothing was kept")
                if member.isreg() and path.is_relative_to(root) and keep(path.relative_to(root)):
                    member = member.replace(name=str(path.relative_to(root)))
                    members.extract(member, folder, filter="data")
                    bar.update()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        # gzip and bz2 report damage as an OSError without a number; those with one are the disk's.
        if isinstance(error, OSError) and error.errno:
            raise
        reason = str(error).partition("\n")[0].rstrip(":")  # without tarfile's list of the formats it tried
        raise UserError(f"{archive.name}: a damaged or truncated archive ({reason}); nothing was kept") from error


def read_sums(path: Path) -> dict[str, str]:
    """File name to SHA-256, from a file as `sha256sum` writes it; empty where there is none.

    Raises:
        UserError: for a line that is not of that form.
    """
    sums = {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], start=1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match:
            raise UserError(f"{path}, line {number}: must be a SHA-256, two spaces and a file name. Received: {line!r}")
        sums[match[2]] = match[1]
    return sums


def write_sums(path: Path, sums: Mapping[str, str]) -> None:
    """Writes file names and their SHA-256, sorted and atomically; `sha256sum -c` reads it."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def _hash_folder(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}


def _missing(download: Download, folder: Path) -> list[str]:
    return [pattern for pattern in download.required if next(folder.glob(pattern), None) is None]


def _verify(download: Download, target: Path, expected: Mapping[str, str], recorded: Mapping[str, str]) -> None:
    again = "--force downloads it again and replaces the folder"
    for name in download.files:
        if name in expected and name in recorded and recorded[name] != expected[name]:
            raise UserError(
                f"{target}: was made from {name} of SHA-256 {recorded[name]}, expected {expected[name]}; {again}"
            )
    sums = read_sums(target / SUMS)
    changed = [
        name for name, digest in sums.items() if not (target / name).is_file() or file_sha256(target / name) != digest
    ]
    if changed:
        raise UserError(
            f"{target}: {len(changed):,} of its {len(sums):,} files are missing or changed, first {changed[0]}; {again}"
        )
    missing = _missing(download, target)
    if missing:
        raise UserError(f"{target}: holds nothing that matches {', '.join(missing[:3])}; {again}")


@contextlib.contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` that no other process uses, removed at the end."""
    folder = target.with_name(f".download-{target.name}")
    folder.mkdir(parents=True, exist_ok=True)
    locks.hold(folder)
    try:
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        yield work
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        locks.release_all()
