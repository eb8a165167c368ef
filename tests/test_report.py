"""The page is read as a browser would: with an HTML parser, and in headless Chromium where there is one."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from models.generator import load_generator
from utils.inversion.directions import Walks, write_walks
from utils.report.page import DASH, audio_url, format_number, write_page

RATE = 16000
NAMES = [
    "plain.wav",
    "two words.wav",
    "Übung/日本語.flac",
    "50%25 #1?.wav",
    "<script>alert(1)</script>.wav",
    "a\"b'c & d.wav",
    "http:/example.wav",
]


class Page(HTMLParser):
    """All start tags with their attributes and enclosing clip, and the text outside of scripts and styles."""

    def __init__(self, markup: str):
        super().__init__()
        self.tags: list[tuple[str, dict, str | None]] = []
        self.text = ""
        self._clip = None
        self._hushed = False
        self.feed(markup)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "article":
            self._clip = attributes["data-source"]
        self._hushed = tag in ("script", "style")
        self.tags.append((tag, attributes, self._clip))

    def handle_endtag(self, tag):
        self._hushed = False

    def handle_data(self, data):
        if not self._hushed:
            self.text += data

    def all(self, tag: str, clip: str | None = None) -> list[dict]:
        return [attributes for name, attributes, owner in self.tags if name == tag and clip in (None, owner)]

    def sounds(self, clip: str | None = None) -> list[dict]:
        return [figure for figure in self.all("figure", clip) if "data-status" in figure]


def make_clip(folder: Path, source: str, methods=("gradient",), samples: int = 2000, **numbers) -> list[dict]:
    """Writes the audio of one clip and returns its lines of results."""
    clip = folder / "clips" / source
    clip.mkdir(parents=True)
    rng = np.random.default_rng(len(source))
    for name in ("original", *methods):
        soundfile.write(clip / f"{name}.wav", rng.uniform(-0.5, 0.5, samples), RATE, subtype="FLOAT")
    return [
        {
            "source": source,
            "method": method,
            "kind": "file",
            "original": f"clips/{source}/original.wav",
            "reconstruction": f"clips/{source}/{method}.wav",
            "windows": 1,
            "status": "converged",
            "objective": 0.0123,
            "waveform_mse": 3.1e-5,
            "ssim": 0.95,
            "snr_db": 12.34,
            "evaluations": 1234,
            "seconds": 2.5,
            "sample_rate": RATE,
            "z_mse": None,
        }
        | numbers
        for method in methods
    ]


def written(folder: Path, results: list[dict], **options) -> Page:
    path = write_page(folder, "Seven clips", results, {"generator": "tiny"}, **options)
    assert path == folder / "index.html"
    return Page(path.read_text(encoding="utf-8"))


def test_every_player_plays_a_file_beside_the_page(tmp_path):
    methods = ("hybrid", "encoder", "gradient")
    results = [line for name in NAMES for line in make_clip(tmp_path, name, methods)]
    page = written(tmp_path, results)
    for name in NAMES:
        players = page.all("audio", name)
        files = [unquote(player["src"]) for player in players]
        expected = ("original", "gradient", "encoder", "hybrid")  # the order of the paper's figures
        assert files == [f"clips/{name}/{column}.wav" for column in expected]
        for player in players:
            assert re.fullmatch(r"(?:[\w.~/-]|%[0-9A-F]{2})+", player["src"], re.ASCII)
            assert (tmp_path / unquote(player["src"])).is_file()
            assert player["preload"] == "none" and "controls" in player
        assert len(page.all("img", name)) == len(page.all("svg", name)) == 4


def test_names_that_are_not_unicode_are_addressed_by_their_bytes(tmp_path):
    assert audio_url("clips/\udcff\udcfe.wav/gradient.wav") == "clips/%FF%FE.wav/gradient.wav"
    result = make_clip(tmp_path, "x.wav")[0] | {"source": "\udcff.wav"}
    assert "?.wav" in written(tmp_path, [result]).text


def test_hostile_text_stays_text(tmp_path):
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(1)>{{clips}}'
    results = make_clip(tmp_path, "<script>alert(1)</script>.wav", status=hostile, kind=hostile)
    plain = written(tmp_path / "plain", make_clip(tmp_path / "plain", "a.wav"))
    path = write_page(tmp_path, hostile, results, {hostile: hostile}, failures={hostile: hostile})
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.all("script")) == len(plain.all("script")) == 1
    assert len(page.all("img")) == len(plain.all("img"))
    assert page.text.count(hostile) >= 6
    assert page.sounds()[0]["data-status"] == hostile


def test_nothing_comes_from_the_network(tmp_path):
    page = written(tmp_path, make_clip(tmp_path, "a.wav"))
    for tag, attributes, _ in page.tags:
        for name in ("src", "href", "action"):
            if name in attributes:
                assert attributes[name].startswith("data:") or tag == "audio"
    markup = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://", markup)


@pytest.mark.parametrize(
    "key, value, text",
    [
        ("snr_db", -3.04, "−3.0"),
        ("ssim", 0.95, "0.950"),
        ("waveform_mse", 3.14e-5, "3.1×10⁻⁵"),
        ("waveform_mse", 0.0, "0"),
        ("objective", 0.02, "0.0200"),
        ("objective", 123456.0, "1.2×10⁵"),
        ("evaluations", 12345, "12\u202f345"),
        ("seconds", 2.5, "2.50"),
        ("seconds", 123.4, "123"),
        ("seconds", 12345.6, "12346"),
        *[("snr_db", value, DASH) for value in (None, float("nan"), float("inf"), -float("inf"), "12", True)],
    ],
)
def test_numbers(key, value, text):
    assert format_number(key, value) == text


def test_missing_numbers_are_dashes_and_not_sorted_by(tmp_path):
    odd = {"snr_db": float("nan"), "ssim": float("inf"), "objective": None, "z_mse": float("nan")}
    page = written(tmp_path, make_clip(tmp_path, "a.wav", **odd))
    assert not re.search(r"\b(nan|inf|none)\b", page.text, re.IGNORECASE)
    assert DASH in page.text
    assert not {"data-snr-db", "data-ssim", "data-objective", "data-z-mse"} & page.sounds()[0].keys()
    assert float(page.sounds()[0]["data-waveform-mse"]) == 3.1e-5


def test_a_lost_or_damaged_audio_file_is_said_in_its_place(tmp_path):
    results = make_clip(tmp_path, "a.wav", ("gradient", "hybrid")) + make_clip(tmp_path, "b.wav")
    (tmp_path / "clips/a.wav/gradient.wav").unlink()
    (tmp_path / "clips/a.wav/hybrid.wav").write_text("not audio")
    page = written(tmp_path, results)
    assert page.text.count("missing or damaged") == 2
    assert [len(page.all("img", name)) for name in ("a.wav", "b.wav")] == [1, 2]


def test_odd_audio_is_drawn(tmp_path):
    odd = {
        "silent.wav": np.zeros((3000, 2)),
        "nan.wav": np.array([np.nan, np.inf, 0.5] * 1000),
        "none.wav": np.zeros(0),
    }
    results = [line for name in odd for line in make_clip(tmp_path, name)]
    for name, audio in odd.items():
        soundfile.write(tmp_path / "clips" / name / "gradient.wav", audio, RATE, "FLOAT")
    assert len(written(tmp_path, results).all("img")) == 6


def test_a_long_clip_is_drawn_whole(tmp_path):
    page = written(tmp_path, make_clip(tmp_path, "long.wav", samples=RATE * 75, windows=74))
    pictures = [tag for tag in page.all("div") if "data-seconds" in tag]
    assert [float(tag["data-seconds"]) for tag in pictures] == [75, 75]
    assert "1 min 15 s" in page.text and "74" in page.text


def test_more_clips_than_are_shown(tmp_path):
    results = [line for i in range(5) for line in make_clip(tmp_path, f"{i}.wav", snr_db=float(10 * i))]
    page = written(tmp_path, results, max_clips=2)
    assert [clip["data-source"] for clip in page.all("article")] == ["0.wav", "1.wav"]
    assert "the first 2 of 5 clips" in page.text
    assert "recovered to 20.0 dB SNR" in page.text  # over all five, not the two shown
    assert "the first" not in written(tmp_path, results, max_clips=5).text


def test_summary_sets_own_samples_against_files(tmp_path):
    results = [
        *make_clip(tmp_path, "a.wav", snr_db=4.0),
        *make_clip(tmp_path, "b.wav", snr_db=6.0),
        *make_clip(tmp_path, "own/0", kind="own sample", snr_db=30.0, z_mse=1e-5),
        *make_clip(tmp_path, "own/1", kind="own sample", snr_db=20.0, z_mse=0.2, status="max_iter"),
    ]
    text = " ".join(written(tmp_path, results).text.split())
    assert (
        "On its own samples the generator is recovered to 25.0 dB SNR and 0.950 SSIM, "
        "the latent itself in 1 of 2; on your files to 5.0 dB SNR and 0.950 SSIM."
    ) in text
    assert "1 converged, 1 max_iter" in text


def test_failures_are_listed(tmp_path):
    page = written(tmp_path, [], failures={"a.wav": "text, not audio", "b.wav": "empty file"})
    assert "2 files failed" in page.text and "a.wav text, not audio" in page.text and "b.wav empty file" in page.text
    assert "No clip was recovered" in page.text


def test_the_page_is_replaced_whole(tmp_path):
    results = make_clip(tmp_path, "a.wav")
    first, second = (write_page(tmp_path, "t", results, {}).read_bytes() for _ in range(2))
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "index.html"]


def walked(folder: Path) -> Walks:
    generator = load_generator("tests.tiny:generator", trust=True)
    return write_walks(folder / "along #", generator, lambda z: tf.sinh(z[:, :4]), seed=3)


def test_each_direction_has_a_slider_whose_files_are_there(tmp_path):
    walks = walked(tmp_path)
    page = written(tmp_path, make_clip(tmp_path, "a.wav"), walks=walks)
    sliders = [field for field in page.all("input") if field.get("type") == "range"]
    assert len(sliders) == 6
    for slider in sliders:
        for step in range(int(slider["min"]), int(slider["max"]) + 1):
            audio, rate = soundfile.read(tmp_path / unquote(f"{slider['data-files']}{step}.flac"))
            assert (len(audio), rate) == (1024, 8000)
    players = [player["src"] for player in page.all("audio") if "along" in player["src"]]
    assert [unquote(source) for source in players] == ["along #/0-0-3.flac", "along #/1-0-3.flac"]
    assert "of the variance" in page.text
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "along #").iterdir()}
    assert walked(tmp_path) == walks and len(before) == 42
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "along #").iterdir()} == before


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def in_chromium(url: str, profile: Path, *more: str) -> str:
    """The page's document after its scripts have run."""
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=5000 "
        "--autoplay-policy=no-user-gesture-required --dump-dom"
    )
    command = [CHROMIUM, *flags.split(), *more, f"--user-data-dir={profile}", url]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two words #")
    results = [
        *make_clip(folder, "a.wav", ("gradient", "hybrid"), snr_db=5.0),
        *make_clip(folder, "Übung #1/b 100%.wav", ("gradient",), snr_db=20.0, status="max_iter"),
        *make_clip(folder, "<script>.wav", ("hybrid",), snr_db=-10.0),
        *make_clip(folder, "d.wav", ("gradient",), snr_db=None),
        *make_clip(folder, "own/0", ("gradient",), snr_db=12.0, kind="own sample", z_mse=1e-6),
    ]
    write_page(folder, "In a browser", results, {})
    return folder


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
class TestInChromium:
    @pytest.mark.parametrize(
        "view, sources",
        [
            ("", ["a.wav", "Übung #1/b 100%.wav", "<script>.wav", "d.wav", "own/0"]),
            ("sort=snr_db", ["Übung #1/b 100%.wav", "own/0", "a.wav", "<script>.wav", "d.wav"]),
            ("sort=snr_db&order=asc", ["<script>.wav", "a.wav", "own/0", "Übung #1/b 100%.wav", "d.wav"]),
            ("sort=snr_db&method=gradient", ["Übung #1/b 100%.wav", "own/0", "a.wav", "d.wav"]),
            ("sort=source&order=asc&method=hybrid", ["<script>.wav", "a.wav"]),
            ("status=max_iter", ["Übung #1/b 100%.wav"]),
            ("kind=own+sample", ["own/0"]),
            ("text=%C3%BCBUNG", ["Übung #1/b 100%.wav"]),
            ("sort=nonsense&method=nonsense&text=wav&status=max_iter", ["Übung #1/b 100%.wav"]),
            ("text=nothing", []),
        ],
    )
    def test_the_address_sorts_and_filters(self, folder, tmp_path, view, sources):
        url = (folder / "index.html").as_uri() + "#" + view
        page = Page(in_chromium(url, tmp_path))
        assert [clip["data-source"] for clip in page.all("article") if "hidden" not in clip] == sources
        assert f"{len(sources)} of 5 clips" in page.text
        if "method=gradient" in view:
            hidden = {figure["data-method"] for figure in page.all("figure") if "hidden" in figure}
            assert hidden == {"hybrid"}

    def probed(self, folder: Path, profile: Path, script: str, *flags: str) -> Page:
        """The page as it is after `script` ran at its end."""
        markup = (folder / "index.html").read_text(encoding="utf-8")
        probe = folder / "probe.html"
        probe.write_text(markup.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
        return Page(in_chromium(probe.as_uri(), profile, *flags))

    def test_controls_write_the_address_and_every_sound_loads(self, folder, tmp_path):
        script = """
        tools.elements.method.value = "gradient";
        tools.elements.sort.value = "ssim";
        tools.dispatchEvent(new Event("change"));
        order.click();
        document.body.dataset.hash = location.hash;
        for (const audio of document.querySelectorAll("audio")) {
          audio.addEventListener("loadedmetadata", () => audio.dataset.duration = audio.duration);
          audio.addEventListener("error", () => audio.dataset.failed = audio.error.message);
          audio.preload = "auto";
          audio.load();
        }"""
        page = self.probed(folder, tmp_path, script)
        assert page.all("body")[0]["data-hash"] == "#method=gradient&sort=ssim&order=asc"
        players = page.all("audio")
        assert len(players) == 11
        assert [player.get("data-failed") for player in players] == [None] * 11
        assert [float(player["data-duration"]) for player in players] == [2000 / RATE] * 11

    def test_keys_walk_the_clips_and_play_their_columns(self, folder, tmp_path):
        script = """
        document.addEventListener("play", (event) => event.target.dataset.played = "yes", true);
        for (const key of ["j", "j", "j", "k", "2"])
          document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        document.body.dataset.focus = document.activeElement.dataset.source;"""
        page = self.probed(folder, tmp_path, script)
        assert page.all("body")[0]["data-focus"] == "Übung #1/b 100%.wav"
        played = [player["src"] for player in page.all("audio") if "data-played" in player]
        assert [unquote(source) for source in played] == ["clips/Übung #1/b 100%.wav/gradient.wav"]

    def test_a_b_keeps_the_position(self, folder, tmp_path):
        script = """
        const pressed = (key) => new KeyboardEvent("keydown", { key, bubbles: true });
        const press = (key) => document.activeElement.dispatchEvent(pressed(key));
        const next = (audio, type) => new Promise((done) => audio.addEventListener(type, done, { once: true }));
        const [original, gradient, hybrid] = document.querySelector("article").querySelectorAll("audio");
        async function go(audio, act) { const started = next(audio, "play"); act(); await started; }
        async function rest(audio, at) { audio.pause(); audio.currentTime = at; await next(audio, "seeked"); }
        (async () => {
          document.querySelector("article").focus();
          await go(original, () => press("1"));
          await rest(original, 0.06);
          await go(gradient, () => press("x"));
          gradient.dataset.from = gradient.currentTime;
          await rest(gradient, 0.09);
          await go(original, () => document.querySelector(".switch").click());
          original.dataset.from = original.currentTime;
          await go(hybrid, () => press("3"));
          hybrid.dataset.others = [original.paused, gradient.paused];
          await go(gradient, () => press("2"));
          await rest(gradient, 0.05);
          await go(gradient, () => press(" "));
          gradient.dataset.on = gradient.currentTime;
          await go(gradient, () => { gradient.pause(); press("2"); });
          gradient.dataset.again = gradient.currentTime;
        })();"""
        original, gradient, hybrid = self.probed(folder, tmp_path, script).all("audio", "a.wav")
        assert float(gradient["data-from"]) == pytest.approx(0.06, abs=0.02)
        assert float(original["data-from"]) == pytest.approx(0.09, abs=0.02)
        assert hybrid["data-others"] == "true,true"
        assert float(gradient["data-on"]) == pytest.approx(0.05, abs=0.02)
        assert float(gradient["data-again"]) == pytest.approx(0, abs=0.02)

    def test_a_slider_plays_its_place_on_the_walk(self, tmp_path):
        written(tmp_path, make_clip(tmp_path, "a.wav"), walks=walked(tmp_path))
        script = """
        const [first, second] = document.querySelectorAll(".walk input");
        for (const [slider, value] of [[first, 0], [second, 5]]) {
          slider.value = value;
          slider.dispatchEvent(new Event("input", { bubbles: true }));
        }
        const audio = document.querySelector(".walk audio");
        audio.addEventListener("loadedmetadata", () => audio.dataset.duration = audio.duration);
        document.body.dataset.values = [first.value, second.value];"""
        page = self.probed(tmp_path, tmp_path / "profile", script)
        audio = next(player for player in page.all("audio") if "along" in player["src"])
        assert unquote(audio["src"]) == "along #/0-1-5.flac" and float(audio["data-duration"]) == 1024 / 8000
        assert page.all("body")[0]["data-values"] == "3,5"

    @pytest.mark.parametrize("scheme, background", [("light", "rgb(246, 245, 242)"), ("dark", "rgb(19, 20, 25)")])
    def test_it_follows_the_system_s_colours(self, folder, tmp_path, scheme, background):
        script = """
        const style = (element) => getComputedStyle(element);
        document.body.dataset.background = style(document.body).backgroundColor;
        document.body.dataset.button = style(document.querySelector(".switch")).color;"""
        flag = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
        body = self.probed(folder, tmp_path, script, flag).all("body")[0]
        assert body["data-background"] == background
        assert (body["data-button"] == "rgb(29, 31, 36)") == (scheme == "light")
