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

from utils.inversion.latents import Latents, save_latents
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
    results = make_clip(tmp_path, "<script>alert(1)</script>.wav", status=hostile, notes=hostile)
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
                assert attributes[name].startswith("data:") or tag == "audio" or "download" in attributes
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


def test_the_best_of_a_clip_s_methods_is_marked_where_they_differ(tmp_path):
    results = make_clip(tmp_path, "a.wav", ("gradient", "hybrid"), log_mel_distance=0.5)
    results[1]["objective"] = 0.001
    page = written(tmp_path, results)
    assert [tag.get("class") for tag in page.all("div", "a.wav")].count("best") == 1


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
    results = [line for i in range(5) for line in make_clip(tmp_path, f"{i}.wav", log_mel_distance=float(i))]
    page = written(tmp_path, results, max_clips=2)
    assert [clip["data-source"] for clip in page.all("article")] == ["0.wav", "1.wav"]
    assert "the first 2 of 5 clips" in page.text
    assert "log-mel distance 2.00" in " ".join(page.text.split())  # over all five, not the two shown
    assert "the first" not in written(tmp_path, results, max_clips=5).text


JUDGED = {"judge_mel_clip": "seven 98 %", "judge_mel_reconstruction": "seven 91 %"}
MISJUDGED = JUDGED | {"judge_mel_reconstruction": "two 44 %"}


def test_files_come_first_and_own_samples_are_folded_below(tmp_path):
    results = [
        *make_clip(tmp_path, "own/0", kind="own sample", snr_db=30.0, z_mse=1e-6),
        *make_clip(tmp_path, "own/1", kind="own sample", snr_db=20.0, z_mse=1.1e-6, status="max_iter"),
        *make_clip(tmp_path, "a.wav", log_mel_distance=0.5, log_mel_distance_silence=2.0, **JUDGED),
        *make_clip(tmp_path, "b.wav", log_mel_distance=0.7, log_mel_distance_silence=4.0, **MISJUDGED),
    ]
    page = written(tmp_path, results)
    assert [clip["data-source"] for clip in page.all("article")] == ["a.wav", "b.wav", "own/0", "own/1"]
    assert [tag for tag in page.all("details") if tag["class"] == "own"] == [{"class": "own"}]  # not open
    assert {"class": "own", "open": None} in written(tmp_path, results[:2]).all("details")
    text = " ".join(page.text.split())
    assert (
        "Your files: log-mel distance 0.60 (silence 3.00), same digit by judge_mel 1 of 2; "
        "own samples: SNR 25.0 dB, latent found in 1 of 2."
    ) in text
    assert "1 converged, 1 max_iter" in text


def test_snr_and_ssim_stand_by_own_samples_alone(tmp_path):
    page = written(tmp_path, make_clip(tmp_path, "a.wav"))
    assert "SNR" not in page.text and "SSIM" not in page.text and "log-mel distance" in page.text
    page = written(tmp_path, make_clip(tmp_path, "own/0", kind="own sample"))
    assert "SNR" in page.text and "SSIM" in page.text and "log-mel distance" not in page.text


def test_silence_is_the_floor_of_the_files(tmp_path):
    results = make_clip(tmp_path, "a.wav", log_mel_distance=0.5, log_mel_distance_silence=2.25)
    assert "silence12.25" in "".join(written(tmp_path, results).text.split())
    assert "silence" not in written(tmp_path, make_clip(tmp_path, "b.wav")).text
    own = {"kind": "own sample", "log_mel_distance_silence": 2.25} | JUDGED
    page = written(tmp_path, make_clip(tmp_path, "own/0", ("gradient", "hybrid"), **own))
    table = [cell["data-title"] for cell in page.all("td")]
    assert "silence, median" not in page.text and "2.25" not in page.text and not any("judge" in t for t in table)


def test_judges_answers_stand_by_clip_and_reconstruction(tmp_path):
    page = written(tmp_path, make_clip(tmp_path, "a.wav", **JUDGED) + make_clip(tmp_path, "b.wav", **MISJUDGED))
    marks = {clip: [tag["class"] for tag in page.all("dd", clip) if tag.get("class")] for clip in ("a.wav", "b.wav")}
    assert marks == {"a.wav": ["same"], "b.wav": ["other"]}
    assert page.text.count("seven 98 %") == 2 and "two 44 %" in page.text


def test_notes_and_verdicts_are_shown(tmp_path):
    results = make_clip(tmp_path, "a.wav", notes="clipped", verdict="not")
    results += make_clip(tmp_path, "b.wav", verdict="abstains", score=-1.234)
    page = written(tmp_path, results)
    assert "clipped" in page.text and "−1.23" in page.text
    assert "not 1, abstains 1" in " ".join(page.text.split())


def test_what_was_written_can_be_downloaded(tmp_path):
    (tmp_path / "summary.csv").touch()
    page = written(tmp_path, make_clip(tmp_path, "a b.wav", latents="clips/a b.wav/gradient.npz"))
    links = [unquote(link["href"]) for link in page.all("a") if "download" in link]
    folder = "clips/a b.wav"
    assert links == ["summary.csv", f"{folder}/original.wav", f"{folder}/gradient.wav", f"{folder}/gradient.npz"]


def test_the_objective_is_plotted_for_each_clip_whose_latents_hold_it(tmp_path):
    results = make_clip(tmp_path, "a.wav", ("gradient", "encoder"), latents="a.npz") + make_clip(tmp_path, "b.wav")
    curve = np.array([[4, 2, 1]], np.float32)
    save_latents(tmp_path / "a.npz", Latents(np.zeros((1, 3), np.float32), "", "gradient", 0, curve=curve))
    page = written(tmp_path, results)
    assert [len(page.all("polyline", clip)) for clip in ("a.wav", "b.wav")] == [2, 0]


def test_a_dot_for_each_clip_and_method_leads_to_its_clip(tmp_path):
    results = make_clip(tmp_path, "a.wav", ("gradient", "encoder"), log_mel_distance=0.5)
    results += make_clip(tmp_path, "b.wav", log_mel_distance=0.7) + make_clip(tmp_path, "c.wav")
    page = written(tmp_path, results)
    dots = [circle["data-clip"] for circle in page.all("circle") if "data-clip" in circle]
    named = {clip["id"]: clip["data-source"] for clip in page.all("article")}
    assert sorted(named[f"clip-{dot}"] for dot in dots) == ["a.wav", "a.wav", "b.wav"]


def test_failures_are_listed(tmp_path):
    page = written(tmp_path, [], failures={"a.wav": "text, not audio", "b.wav": "empty file"})
    assert "2 files failed" in page.text and "a.wav text, not audio" in page.text and "b.wav empty file" in page.text
    assert "No clip was recovered" in page.text


def test_the_page_is_replaced_whole(tmp_path):
    results = make_clip(tmp_path, "a.wav")
    first, second = (write_page(tmp_path, "t", results, {}).read_bytes() for _ in range(2))
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "index.html"]


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
        *make_clip(folder, "own/1", ("gradient",), snr_db=15.0, kind="own sample", z_mse=1e-6),
    ]
    write_page(folder, "In a browser", results, {})
    return folder


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
class TestInChromium:
    @pytest.mark.parametrize(
        "view, sources",
        [
            ("", ["a.wav", "Übung #1/b 100%.wav", "<script>.wav", "d.wav", "own/0", "own/1"]),
            ("sort=snr_db", ["Übung #1/b 100%.wav", "a.wav", "<script>.wav", "d.wav", "own/1", "own/0"]),
            ("sort=snr_db&order=asc", ["<script>.wav", "a.wav", "Übung #1/b 100%.wav", "d.wav", "own/0", "own/1"]),
            ("sort=snr_db&method=gradient", ["Übung #1/b 100%.wav", "a.wav", "d.wav", "own/1", "own/0"]),
            ("sort=source&order=asc&method=hybrid", ["<script>.wav", "a.wav"]),
            ("status=max_iter", ["Übung #1/b 100%.wav"]),
            ("text=%C3%BCBUNG", ["Übung #1/b 100%.wav"]),
            ("text=OWN", ["own/0", "own/1"]),
            ("sort=nonsense&method=nonsense&text=wav&status=max_iter", ["Übung #1/b 100%.wav"]),
            ("text=nothing", []),
        ],
    )
    def test_the_address_sorts_and_filters(self, folder, tmp_path, view, sources):
        url = (folder / "index.html").as_uri() + "#" + view
        page = Page(in_chromium(url, tmp_path))
        assert [clip["data-source"] for clip in page.all("article") if "hidden" not in clip] == sources
        assert f"{len(sources)} of 6 clips" in page.text
        folded = next(section for section in page.all("details") if section["class"] == "own")
        assert ("open" in folded) == (view == "text=OWN")
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
        tools.elements.sort.value = "objective";
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
        assert page.all("body")[0]["data-hash"] == "#method=gradient&sort=objective&order=asc"
        players = page.all("audio")
        assert len(players) == 13
        assert [player.get("data-failed") for player in players] == [None] * 13
        assert [float(player["data-duration"]) for player in players] == [2000 / RATE] * 13

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
