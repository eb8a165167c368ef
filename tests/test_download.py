"""download.py against a server on this machine that answers well, badly, too slowly, or not at all."""

import hashlib
import http.server
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
import soundfile

import download
from utils.errors import UserError
from utils.runs.downloads import RECORD, SUMS, extract, install, read_sums

ARCHIVE = "speech_commands_v0.01.tar.gz"


class Site:
    """What the server answers, by file name: `files` whole, `short` cut in half, `slow` stopped in the middle."""

    def __init__(self):
        self.files, self.short, self.slow, self.requests = {}, set(), set(), []
        self.sent, self.resume = threading.Event(), threading.Event()
        self.url = ""

    def put(self, name: str, content: bytes) -> str:
        self.files[name] = content
        return f"{name}={hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def site():
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            site.requests.append(name)
            if name not in site.files:
                self.send_error(404)
                return
            content = site.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            half = len(content) // 2
            self.wfile.write(content[:half])
            if name in site.slow:
                self.wfile.flush()
                site.sent.set()
                site.resume.wait(60)
            if name not in site.short:
                self.wfile.write(content[half:])

        def handle(self):
            try:
                super().handle()
            except ConnectionError:  # the client was killed
                pass

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}/mirror/"
    yield site
    site.resume.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def get(site, run_script):
    """Runs download.py against the server."""

    def get(*args):
        return run_script("download.py", *args, "--base_url", site.url, env={"no_proxy": "127.0.0.1"})

    return get


def archive(files: dict[str, bytes], *special: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in special:
            tar.addfile(member)
    return buffer.getvalue()


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


def wav() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).uniform(-0.5, 0.5, 4000), 16000, format="WAV")
    return buffer.getvalue()


def speech_commands() -> dict[str, bytes]:
    """The layout of the published archive, whose names begin with `./`."""
    words = [*download.DIGITS, "yes", "_background_noise_"]
    files = {f"./{word}/{speaker}_nohash_0.wav": wav() for word in words for speaker in ("0a", "0b")}
    lists = {"./validation_list.txt": b"zero/0a_nohash_0.wav\nyes/0a_nohash_0.wav\n", "./testing_list.txt": b""}
    return files | lists | {"./LICENSE": b"CC BY 4.0"}


def sc09() -> dict[str, bytes]:
    return {
        f"sc09/{split}/{digit.title()}_0a_nohash_0.wav": wav()
        for split in ("train", "valid", "test")
        for digit in download.DIGITS
    }


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_fails(result, *words: str) -> None:
    assert result.returncode == 3, result
    errors = [line for line in result.stderr.splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and errors[0].startswith("error: "), result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in errors[0], errors[0]


def test_speech_commands_is_unpacked_verified_and_left_alone(site, get, tmp_path):
    target = tmp_path / "speech"
    digest = site.put(ARCHIVE, archive(speech_commands()))
    result = get("speech-commands", "--output", target, "--sha256", digest)
    assert result.returncode == 0, result.stderr
    assert names(target) == sorted([*download.DIGITS, *download.SPLIT_LISTS, "LICENSE", SUMS])
    assert "23 files" in result.stdout and "CC BY 4.0" in result.stdout and "Pete Warden" in result.stdout
    assert names(tmp_path) == [RECORD, "speech"]
    assert "zero/0a_nohash_0.wav" in read_sums(target / SUMS)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=target, check=True)

    from utils.audio.datasets import DIGITS, load_dataset

    assert download.DIGITS == DIGITS
    data = load_dataset(target, split="validation", cache_dir=tmp_path / "cache", quiet=True)
    assert (data.layout, len(data), data.absent) == ("speech commands", 1, 0)

    site.requests.clear()
    again = get("speech-commands", "--output", target, "--sha256", digest)
    assert again.returncode == 0 and "already there and verified" in again.stdout
    assert site.requests == []

    more = get("speech-commands", "--output", target, "--sha256", digest, "--all_words")
    assert_fails(more, "yes/*.wav", "--force")
    more = get("speech-commands", "--output", target, "--sha256", digest, "--all_words", "--force", "--quiet")
    assert more.returncode == 0 and more.stderr == "" and len(more.stdout.splitlines()) == 1
    assert {"yes", "_background_noise_"} < set(names(target))
    assert get("speech-commands", "--output", target, "--sha256", digest).returncode == 0

    (target / "zero" / "0a_nohash_0.wav").write_bytes(b"changed")
    again = get("speech-commands", "--output", target, "--sha256", digest)
    assert_fails(again, "1 of its 27 files", "zero/0a_nohash_0.wav", "--force")
    assert (target / "zero" / "0a_nohash_0.wav").read_bytes() == b"changed"


def test_wrong_hash_keeps_nothing(site, get, tmp_path):
    site.put(ARCHIVE, archive(speech_commands()))
    found = hashlib.sha256(site.files[ARCHIVE]).hexdigest()
    expected = download.ITEMS["speech-commands"].download.sha256[ARCHIVE]
    assert_fails(get("speech-commands", "--output", tmp_path / "speech"), expected, found)
    assert names(tmp_path) == []


def test_hash_of_first_download_is_held_against_later_ones(site, get, tmp_path):
    target = tmp_path / "sc09"
    site.put("sc09.tar.gz", archive(sc09()))
    assert get("sc09", "--output", target).returncode == 0
    assert names(target) == [SUMS, "test", "train", "valid"]
    first = read_sums(tmp_path / RECORD)["sc09.tar.gz"]
    assert first == hashlib.sha256(site.files["sc09.tar.gz"]).hexdigest()

    other = site.put("sc09.tar.gz", archive(sc09() | {"sc09/train/Zero_other.wav": wav()}))
    shutil.rmtree(target)
    assert_fails(get("sc09", "--output", target), first, "recorded at its first download", RECORD)
    assert names(tmp_path) == [RECORD]
    assert get("sc09", "--output", target, "--sha256", other).returncode == 0
    assert (target / "train" / "Zero_other.wav").is_file()
    assert_fails(get("sc09", "--output", target, "--sha256", f"sc09.tar.gz={first}"), "was made from", first)


def test_what_the_server_may_do_wrong(site, get, run_script, tmp_path):
    target = tmp_path / "sc09"
    assert_fails(get("sc09", "--output", target), "404 Not Found", f"{site.url}sc09.tar.gz")
    site.put("sc09.tar.gz", archive(sc09()))
    site.short.add("sc09.tar.gz")
    assert_fails(get("sc09", "--output", target), "the transfer broke off", "bytes read")
    site.short.clear()
    # A proxy's login page, a cut archive of the announced length, an archive without the expected folder.
    for content, word in ((b"<html>", "damaged"), (archive(sc09())[:900], "damaged"), (archive({"a": b""}), "train/")):
        site.put("sc09.tar.gz", content)
        assert_fails(get("sc09", "--output", target), "sc09.tar.gz", word)
    assert names(tmp_path) == []

    nowhere = run_script(
        "download.py", "sc09", "--output", target, "--base_url", "http://127.0.0.1:9", env={"no_proxy": "127.0.0.1"}
    )
    assert_fails(nowhere, "cannot be reached", "Connection refused")


@pytest.mark.parametrize("name", ["sc09/../../evil", "../evil"])
def test_a_member_that_leads_outside_is_refused_by_name(tmp_path, name):
    path = tmp_path / "sc09.tar.gz"
    path.write_bytes(archive({"sc09/a": b"a", name: b"evil"}))
    with pytest.raises(UserError, match="refused") as error:
        extract(path, tmp_path / "one" / "two", root="sc09", quiet=True)
    assert repr(name) in str(error.value)
    assert {path.name for path in tmp_path.rglob("*") if not path.is_dir()} == {"a", "sc09.tar.gz"}


@pytest.mark.parametrize(
    "special",
    [
        link("sc09/evil", "/etc/passwd"),
        link("sc09/evil", "../../evil"),
        link("sc09/evil", "../../evil", tarfile.LNKTYPE),
        link("sc09/evil", "", tarfile.FIFOTYPE),
        link("/tmp/evil", "", tarfile.REGTYPE),
    ],
)
def test_links_and_what_lies_elsewhere_stay_in_the_archive(tmp_path, special):
    path = tmp_path / "sc09.tar.gz"
    path.write_bytes(archive({"sc09/a": b"a"}, special))
    extract(path, tmp_path / "one" / "two", root="sc09", quiet=True)
    assert {path.name for path in tmp_path.rglob("*") if path.is_symlink() or not path.is_dir()} == {"a", "sc09.tar.gz"}


def test_unsafe_archive_leaves_nothing(site, get, tmp_path):
    site.put("sc09.tar.gz", archive(sc09() | {"sc09/train/../../../evil": b"evil"}))
    assert_fails(get("sc09", "--output", tmp_path / "data" / "sc09"), "'sc09/train/../../../evil'", "refused")
    assert names(tmp_path) == ["data"] and names(tmp_path / "data") == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_in_mid_transfer_then_repeated(site, get, repo_root, tmp_path, how):
    target = tmp_path / "sc09"
    site.put("sc09.tar.gz", archive(sc09() | {"sc09/large": os.urandom(400_000)}))
    site.slow.add("sc09.tar.gz")
    process = subprocess.Popen(
        [sys.executable, "download.py", "sc09", "--output", target, "--base_url", site.url],
        cwd=repo_root,
        env=os.environ | {"no_proxy": "127.0.0.1"},
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell inherits an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert site.sent.wait(60)  # the first half
    assert_fails(get("sc09", "--output", target), f"process {process.pid} on ")
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    assert not target.exists() and not (tmp_path / RECORD).exists()
    if how == signal.SIGINT:
        assert process.returncode == 130 and stderr.endswith("error: interrupted\n")
        assert names(tmp_path) == []

    site.slow.clear()
    assert get("sc09", "--output", target).returncode == 0
    assert names(tmp_path) == [RECORD, "sc09"]


def test_full_disk_is_one_line(site, repo_root, tmp_path):
    site.put("sc09.tar.gz", archive({"sc09/large": os.urandom(400_000)}))
    result = subprocess.run(
        [sys.executable, "-B", "download.py", "sc09", "--output", tmp_path / "sc09", "--base_url", site.url],
        cwd=repo_root,
        env=os.environ | {"no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        # A limit on the size of files is what an unprivileged test can set; the error takes the same way.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert_fails(result, str(tmp_path / "sc09"), "File too large", "nothing was kept")
    assert names(tmp_path) == []


def test_foreign_folder_is_never_replaced(site, get, tmp_path):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "song.wav").write_bytes(wav())
    site.put("sc09.tar.gz", archive(sc09()))
    assert_fails(get("sc09", "--output", target, "--force"), str(target), "no earlier download")
    assert names(target) == ["song.wav"] and site.requests == []


def test_wavegan_checkpoint_is_renamed_and_loaded(site, get, tmp_path):
    from models.generator import load_generator
    from models.tf1 import write_tf1
    from models.wavegan import Architecture

    architecture = Architecture(latent_dim=5, dim=1)
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.3, shape) for name, shape in architecture.weight_shapes.items()}
    write_tf1(tmp_path / "published", weights, architecture)
    item = download.ITEMS["wavegan-birds"]
    for published, name in item.download.files.items():
        assert published.startswith("birds")
        site.put(published, (tmp_path / "published" / name).read_bytes())
    target = tmp_path / "checkpoint" / "birds"
    result = get("wavegan-birds", "--output", target)
    assert result.returncode == 0, result.stderr
    assert names(target) == [SUMS, "infer.meta", "model.ckpt.data-00000-of-00001", "model.ckpt.index"]
    assert f"--generator {target}" in result.stdout and "Chris Donahue" in result.stdout
    assert set(read_sums(target.parent / RECORD)) == set(item.download.files)
    assert load_generator(target).network is not None

    site.put("birds_infer.meta", b"not a graph")
    with pytest.raises(UserError, match="no generator, nothing was kept"):
        install(item.download, tmp_path / "other" / "birds", base_url=site.url, quiet=True)
    assert names(tmp_path / "other") == []


def test_several_names_and_places(run_script, site, get):
    dry = run_script("download.py", "speech-commands", "sc09", "wavegan-piano", "--dry_run").stdout
    for line in (
        f"http://download.tensorflow.org/data/{ARCHIVE} into datasets/speech_commands_v0.01",
        "http://deepyeti.ucsd.edu/cdonahue/wavegan/data/sc09.tar.gz into datasets/sc09",
        "https://s3.amazonaws.com/wavegan-v1/models/piano_infer.meta into checkpoint/piano",
        "https://s3.amazonaws.com/wavegan-v1/models/piano.ckpt.index into checkpoint/piano",
        "https://s3.amazonaws.com/wavegan-v1/models/piano.ckpt.data-00000-of-00001 into checkpoint/piano",
    ):
        assert f"would download {line}\n" in dry
    assert site.requests == []


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["sc09", "wavegan-sc09", "--output", "x"], "--output"),
        (["sc09", "--all_words"], "--all_words"),
        (["sc09", "--sha256", "sc09.tar.gz=12"], "--sha256"),
        (["sc09", "--sha256", "other.tar.gz=" + "0" * 64], "--sha256"),
        (["sc09", "--base_url", "file:///etc"], "--base_url"),
        (["sc90"], "sc90"),
    ],
)
def test_wrong_usage(monkeypatch, capsys, arguments, flag):
    monkeypatch.setattr(sys, "argv", ["download.py", *arguments])
    with pytest.raises(SystemExit) as end:
        download.options.run(download.main)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and flag in error
