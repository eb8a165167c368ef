"""The page to listen to: one `index.html` beside a run's audio files, readable offline and without a server.

The look and the behaviour (sorting, filters, keys) are in `page.html`; here its parts are filled in.
"""

import functools
import html
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import soundfile

from utils.errors import UserError
from utils.inversion.exactness import FOUND_Z_MSE, is_found
from utils.inversion.latents import load_latents
from utils.inversion.sources import FILE, OWN_SAMPLE
from utils.report.plots import Point, curves_svg, scatter_svg, scientific
from utils.report.thumbnails import RANGE_DB, data_uri, spectrogram_db, spectrogram_png, waveform_svg
from utils.runs.files import atomic_path

TEMPLATE = Path(__file__).with_name("page.html")
METHODS = ("gradient", "encoder", "hybrid", "search")  # the columns' order, that of the paper's Figures 2 and 3
DOWNLOADS = ("summary.csv", "results.jsonl", "failures.jsonl")
SILENCE = "log_mel_distance_silence"
Sound = tuple[np.ndarray, int]  # audio [T, C] and its rate in Hz
DASH = "–"
NOTHING = ' class="nothing"'  # a cell that a narrow screen leaves out


class Number(NamedTuple):
    """A number of a result.

    Attributes:
        label: on the page.
        unit: or nothing.
        better: +1 where more is better, -1 where less is, 0 where it is a cost or a fact.
        means: for the legend.
        kind: of the clips that it is shown of; None for both kinds.
        optional: whether it is left out where no result has it.
    """

    label: str
    unit: str
    better: int
    means: str
    kind: str | None = None
    optional: bool = False


NUMBERS = {
    "score": Number("score", "", -1, "log10 of the share of the clip's energy that no latent reproduces", FILE, True),
    "log_mel_distance": Number(
        "log-mel distance", "", -1, "mean absolute difference of the two log-mel spectrograms, in nepers", FILE
    ),
    "f0_error": Number(
        "F0 error",
        "semitones",
        -1,
        "mean pitch difference over frames where pyin detects a pitch in both; 12 where in no common frame",
        FILE,
        True,
    ),
    "snr_db": Number("SNR", "dB", 1, "signal-to-noise ratio of the waveform; silence scores 0", OWN_SAMPLE),
    "ssim": Number("SSIM", "", 1, "structural similarity of the real parts of the STFTs, the paper's", OWN_SAMPLE),
    "waveform_mse": Number("MSE", "", -1, "mean squared difference of the waveforms", OWN_SAMPLE),
    "z_mse": Number(
        "z-MSE",
        "",
        -1,
        f"mean squared error of the latent; found where it is at most {scientific(FOUND_Z_MSE, 0)}",
        OWN_SAMPLE,
        True,
    ),
    "objective": Number("objective", "", -1, "what the search minimises; compare within a clip"),
    "prior_distance": Number(
        "off the prior", "", 0, "distance from what the prior gives, in standard deviations of the layer", optional=True
    ),
    "offset_ms": Number("offset", "ms", 0, "by which the clip was shifted before the search (--align)", optional=True),
    "gain_db": Number("gain", "dB", 0, "by which the clip was amplified before the search (--align)", optional=True),
    "evaluations": Number("evaluations", "", 0, "of the objective and its gradient"),
    "seconds": Number("time", "s", 0, "of the search, this clip's share of its batch"),
}
JUDGED = re.compile(r"(judge_\w+)_(clip|reconstruction)")
LEGEND = {
    "judges": "the digit that an independent classifier assigns, and its confidence; same digit: "
    "reconstructions that are assigned the digit of their clip",
    "exact": "the reconstruction is the clip up to the rounding of its samples",
    "silence": "the floor: silence in place of each reconstruction",
    "status": "why the search ended: converged, or a limit was reached (max_iter)",
}


@dataclass(frozen=True)
class _Kind:
    """The clips of one kind: results by source and method, those shown, and what the page has of them all."""

    name: str
    clips: dict[str, dict[str, dict]]
    first: int  # number of its first clip on the page
    shown: list[str]

    @functools.cached_property
    def results(self) -> list[dict]:
        return [result for clip in self.clips.values() for result in clip.values()]

    @functools.cached_property
    def numbers(self) -> list[str]:
        """Keys of `NUMBERS` that are shown of this kind."""
        keys = [key for key, number in NUMBERS.items() if number.kind in (None, self.name)]
        return [k for k in keys if not NUMBERS[k].optional or any(_number(r.get(k)) is not None for r in self.results)]

    @functools.cached_property
    def judges(self) -> list[str]:
        """Judges of files; most of a generator's own samples are no digit."""
        return _judges(self.results) if self.name == FILE else []


def write_page(
    output_dir: Path | str,
    title: str,
    results: Iterable[dict],
    facts: dict[str, str],
    *,
    failures: Mapping[str, str] = {},
    max_clips: int = 500,
) -> Path:
    """Write `output_dir/index.html`: each clip and its reconstructions with players, pictures and numbers.

    Files come first; the generator's own samples are folded below them.

    Args:
        output_dir: the run's folder.
        title: heading of the page.
        results: the lines of `results.jsonl`, one dict a clip and method: `source`, `method`, `kind` (`FILE` or
            `OWN_SAMPLE`), `original` and `reconstruction` (WAV paths relative to `output_dir`), `windows`, `status`.
            May be missing, None or not finite: the numbers named in `NUMBERS`, `log_mel_distance_silence` (as
            `log_mel_distance`, of silence), `latents` (npz path, whose `curve` is plotted), `match` (see
            `utils.inversion.latents`), `verdict` (of attribute.py), `notes`, and of each judge
            `judge_NAME_clip` and `judge_NAME_reconstruction`, texts that begin with the digit.
        facts: what the run was (generator, method, seed, commit, ...), shown as given.
        failures: reason by source.
        max_clips: clips shown, files first; the page says so if there are more. The medians are over all.

    Returns:
        The path of the page. An audio file that cannot be read leaves a note in its place.
    """
    output_dir = Path(output_dir)
    clips: dict[str, dict[str, dict[str, dict]]] = {FILE: {}, OWN_SAMPLE: {}}
    for result in results:
        clips[result.get("kind", FILE)].setdefault(result["source"], {})[result["method"]] = result
    total = sum(map(len, clips.values()))
    kinds, first = [], 0
    for name, of_kind in clips.items():
        shown = list(of_kind)[: max_clips - first]
        kinds.append(_Kind(name, of_kind, first, shown))
        first += len(shown)
    files, own = kinds
    every = files.results + own.results
    methods = sorted({result["method"] for result in every}, key=_method_order)

    present = [key for key in NUMBERS if key in files.numbers and files.clips or key in own.numbers and own.clips]
    parts = {
        "title": _text(title),
        "lead": _lead(files, own, methods),
        "summary": _summary(files, methods),
        "scatter": _scatter(files, methods),
        "downloads": _downloads(output_dir),
        "facts": "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in facts.items()),
        "legend": _legend(present, every),
        "failures": _failure_list(failures),
        "notice": _notice(first, total),
        "methods": _choices(methods),
        "statuses": _choices(sorted({_status(result) for result in every})),
        "numbers": "".join(f'<option value="{key}">{NUMBERS[key].label}</option>' for key in present),
        "range_db": f"{RANGE_DB:g}",
        "columns": str(1 + max((len(clip) for kind in kinds for clip in kind.clips.values()), default=0)),
        "files": "\n".join(_card(output_dir, files, source, methods) for source in files.shown),
        "own": _own_section(output_dir, own, methods, unfolded=not files.clips) if own.clips else "",
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], TEMPLATE.read_text(encoding="utf-8"))
    path = output_dir / "index.html"
    with atomic_path(path) as temporary:  # names that are not valid Unicode are shown with question marks
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return path


def format_number(key: str, value: object) -> str:
    """A number of `NUMBERS` as the page shows it: no unit, a true minus sign, an en dash if there is none."""
    number = _number(value)
    if number is None:
        return DASH
    if key == "evaluations":
        text = f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    elif key in ("snr_db", "offset_ms", "gain_db", "f0_error"):
        text = f"{number:.1f}"
    elif key in ("log_mel_distance", "score"):
        text = f"{number:.2f}"
    elif key == "ssim":
        text = f"{number:.3f}"
    elif number == 0 or abs(number) >= 1000 and key == "seconds":
        text = f"{number:.0f}"
    elif 1e-3 <= abs(number) < 1000:
        text = f"{number:#.3g}".removesuffix(".")
    else:
        text = scientific(number, 1)
    return text.replace("-", "−")


def audio_url(path: str) -> str:
    """A path relative to the page as a URL: every byte outside A-Z a-z 0-9 _ . - ~ / percent-encoded."""
    return quote(os.fsencode(path), safe="/")


# ---- above the clips ------------------------------------------------------------


def _lead(files: _Kind, own: _Kind, methods: list[str]) -> str:
    """What a reader asks first: is a bad number the method's fault or the target's?"""
    sentences = []
    verdicts = Counter(result["verdict"] for result in files.results if result.get("verdict"))
    if verdicts:
        counts = ", ".join(f"{_text(verdict)} <b>{count}</b>" for verdict, count in verdicts.most_common())
        sentences.append(f"<div><dt>verdicts</dt><dd>{counts}</dd></div>")
    for method in methods:
        clauses = []
        if of_files := _of_method(files, method):
            clauses.append(_on_files(of_files))
        if of_own := _of_method(own, method):
            clauses.append(_on_own_samples(of_own))
        text = "; ".join(filter(None, clauses))
        if text:
            sentences.append(f"<div><dt>{_text(method)}</dt><dd>{text[0].upper()}{text[1:]}.</dd></div>")
    return "".join(sentences) or "<div><dd>No clip was recovered.</dd></div>"


def _on_files(results: list[dict]) -> str:
    """How near files are to their reconstructions; nothing where it was not measured."""
    distance = _median(results, "log_mel_distance")
    if distance is None:
        return ""
    text = f"your files: log-mel distance <b>{format_number('log_mel_distance', distance)}</b>"
    silence = _median(results, SILENCE)
    text += "" if silence is None else f" (silence {format_number('log_mel_distance', silence)})"
    judged = [f"{judge} <b>{_same_digit(results, judge)}</b>" for judge in _judges(results)]
    return text + (f", same digit by {', by '.join(judged)}" if judged else "")


def _on_own_samples(results: list[dict]) -> str:
    text = f"own samples: SNR <b>{format_number('snr_db', _median(results, 'snr_db'))} dB</b>"
    z_mse = [value for result in results if (value := _number(result.get("z_mse"))) is not None]
    if z_mse:
        text += f", latent found in <b>{sum(map(is_found, z_mse))} of {len(z_mse)}</b>"
    return text


def _summary(kind: _Kind, methods: list[str]) -> str:
    """A row a method with medians, and of files one of silence."""
    if not kind.clips:
        return ""
    numbers, judges = kind.numbers, kind.judges
    heads = [f"{NUMBERS[k].label}{_unit(NUMBERS[k].unit)}" for k in numbers]
    places = [f"same digit, {judge}" for judge in judges]
    head = ["method", "clips", *heads, *places, "outcome"]
    rows = []
    for method in methods:
        results = _of_method(kind, method)
        if results:
            outcomes = Counter(map(_outcome, results)).most_common()
            outcome = ", ".join(f"{count} {_text(text)}" for text, count in outcomes)
            cells = [format_number(key, _median(results, key)) for key in numbers]
            cells += [_same_digit(results, judge) for judge in judges]
            rows.append([_swatch(methods, method) + _text(method), f"{len(results):,}", *cells, outcome])
    silence = _median(kind.results, SILENCE)
    if kind.name == FILE and silence is not None:
        cells = [format_number(key, silence if key == "log_mel_distance" else None) for key in numbers]
        rows.append(["silence", f"{len(kind.clips):,}", *cells, *[DASH] * len(judges), "floor"])
    plain = [re.sub("<.*?>", "", title) for title in head]
    lines = [
        "<tr>"
        + "".join(
            f'<td data-title="{plain[i]}"{NOTHING if cell == DASH else ""}>{cell}</td>'
            if i
            else f"<th scope=row>{cell}</th>"
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    ]
    heading = "".join(f"<th scope=col>{title}</th>" for title in head)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="medians"><table>'
        f"<caption>Medians over {'files' if kind.name == FILE else 'own samples'}</caption>"
        f"<thead><tr>{heading}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _scatter(kind: _Kind, methods: list[str]) -> str:
    """The clips' quality against what the search cost; nothing where there is one clip and method."""
    key = "log_mel_distance" if kind.name == FILE else "snr_db"
    series: dict[int, list[Point]] = {}
    for number, source in enumerate(kind.shown, start=kind.first):
        for method, result in kind.clips[source].items():
            cost, quality = _number(result.get("evaluations")), _number(result.get(key))
            if cost and quality is not None:
                title = f"{source}, {method}: {format_number(key, quality)}"
                series.setdefault(methods.index(method), []).append(Point(cost, quality, number, title))
    if sum(map(len, series.values())) < 2:
        return ""
    silence = _median(kind.results, SILENCE) if kind.name == FILE else None
    level = None if silence is None else (silence, "silence, median")
    label = f"{NUMBERS[key].label}{f', {unit}' if (unit := NUMBERS[key].unit) else ''}"
    return (
        '<figure class="overview"><figcaption>Each dot is a clip by one method; click it to see the clip.</figcaption>'
        f"{scatter_svg(series, x_label='evaluations', y_label=label, level=level)}</figure>"
    )


def _downloads(output_dir: Path) -> str:
    links = [_link(name, name) for name in DOWNLOADS if (output_dir / name).is_file()]
    return f'<p class="files">Download {" ".join(links)}</p>' if links else ""


def _legend(present: list[str], results: list[dict]) -> str:
    known = {
        "judges": bool(_judges(r for r in results if r.get("kind", FILE) == FILE)),
        "exact": any(result.get("match") for result in results),
        "silence": any(r.get("kind", FILE) == FILE and r.get(SILENCE) is not None for r in results),
        "status": bool(results),
    }
    entries = [(NUMBERS[key].label, NUMBERS[key].means) for key in present]
    entries += [(name, LEGEND[name]) for name, there in known.items() if there]
    items = "".join(f"<div><dt>{label}</dt><dd>{_text(means)}</dd></div>" for label, means in entries)
    return f'<details class="legend"><summary>What each column means</summary><dl>{items}</dl></details>'


def _failure_list(failures: Mapping[str, str]) -> str:
    if not failures:
        return ""
    items = "".join(f"<li><b>{_text(source)}</b> {_text(reason)}</li>" for source, reason in failures.items())
    noun = "file" if len(failures) == 1 else "files"
    return (
        f'<details class="failures"{" open" if len(failures) <= 10 else ""}>'
        f"<summary>{len(failures)} {noun} failed</summary><ul>{items}</ul></details>"
    )


def _notice(shown: int, total: int) -> str:
    if shown == total:
        return ""
    return (
        f'<p class="notice">Shown are the first {shown:,} of {total:,} clips. '
        "The medians are over all of them, and summary.csv holds the numbers of each.</p>"
    )


def _own_section(output_dir: Path, own: _Kind, methods: list[str], *, unfolded: bool) -> str:
    """The generator's own samples, folded: what the search reaches where an exact answer exists."""
    cards = "\n".join(_card(output_dir, own, source, methods) for source in own.shown)
    return (
        f'<details class="own"{" open" if unfolded else ""}><summary><h2>Own samples of the generator</h2> '
        f"<small>{len(own.clips):,} clips that it can reproduce exactly: a control of the search</small></summary>"
        f"<div class='overviews'>{_summary(own, methods)}{_scatter(own, methods)}</div>"
        f'<div class="clips">{cards}</div></details>'
    )


# ---- a clip ---------------------------------------------------------------------


def _card(output_dir: Path, kind: _Kind, source: str, methods: list[str]) -> str:
    """One clip: the original and its reconstructions side by side, drawn to common scales."""
    clip = kind.clips[source]
    present = [method for method in methods if method in clip]
    first = clip[present[0]]
    names = [first.get("original"), *(clip[method].get("reconstruction") for method in present)]
    sounds = [_read(output_dir, name) for name in names]
    readable = [sound for sound in sounds if not isinstance(sound, str)]
    peak = max((float(np.nanmax(np.abs(audio), initial=0)) for audio, _ in readable), default=0.0)
    peak = peak if math.isfinite(peak) and peak > 0 else 1.0
    spectra = [None if isinstance(sound, str) else spectrogram_db(sound[0]) for sound in sounds]
    top = max((float(decibels.max()) for decibels in spectra if decibels is not None), default=0.0)

    best = {}
    for key in kind.numbers:
        values = [value for method in present if (value := _number(clip[method].get(key))) is not None]
        if NUMBERS[key].better and len(set(values)) > 1:
            best[key] = max(values) if NUMBERS[key].better > 0 else min(values)

    figures = []
    for column, (name, sound, decibels) in enumerate(zip(names, sounds, spectra, strict=True)):
        method = present[column - 1] if column else "original"
        result = clip[method] if column else None
        label = f"{method} of {source}" if column else f"original {source}"
        swatch = _swatch(methods, method) if column else ""
        numbers = _numbers(result, kind, best) if result else _original_facts(first, kind, sound)
        curves = "" if result else _curves(output_dir, clip, present, methods)
        player = f'<audio controls preload="none" src="{audio_url(name)}" aria-label="{_text(label)}"></audio>'
        figures.append(
            f'<figure class="sound" data-method="{_text(method)}"{_data(result)}>'
            f"<figcaption><h3>{swatch}{_text(method)}{_space(result)}</h3>{_status_chip(result)}</figcaption>"
            + _pictures(sound, decibels, peak, top)
            + (player if name else "")
            + f"{numbers}{_links(name, result)}{curves}</figure>"
        )
    folder, _, leaf = source.rpartition("/")
    notes = next((str(clip[method]["notes"]) for method in present if clip[method].get("notes")), "")
    return (
        f'<article class="clip" id="clip-{kind.first + kind.shown.index(source)}" tabindex="0" '
        f'data-kind="{_text(kind.name)}" data-source="{_text(source)}" aria-label="{_text(source)}"><header><h2>'
        + (f'<span class="folder">{_text(folder)}/</span>' if folder else "")
        + f"{_text(leaf)}</h2>"
        + (f'<span class="note">{_text(notes)}</span>' if notes else "")
        + '<button type="button" class="switch" '
        + 'title="the other of the last two columns, at the same position (x)">A/B</button></header>'
        + f'<div class="row">{"".join(figures)}</div></article>'
    )


def _pictures(sound: Sound | str, decibels: np.ndarray | None, peak: float, top: float) -> str:
    if isinstance(sound, str):
        return f'<p class="missing">{_text(sound)}</p>'
    audio, rate = sound
    return (
        f'<div class="pictures" data-seconds="{len(audio) / rate:.4f}">'
        f'<div class="frame" title="amplitude, ±{peak:.2g}">{waveform_svg(audio, peak)}'
        f'<span class="tick top">±{peak:.2g}</span></div>'
        f'<div class="frame" title="power in dB, 0 to {rate / 2000:g} kHz">'
        f'<img alt="spectrogram, 0 to {rate / 2000:g} kHz" decoding="async" '
        f'src="{data_uri(spectrogram_png(decibels, top))}">'
        f'<span class="tick top">{rate / 2000:g} kHz</span><span class="tick bottom">0</span></div></div>'
        '<div class="axis" aria-hidden="true"><span>0</span>'
        f"<span>{_duration(len(audio) / rate)}</span></div>"
    )


def _numbers(result: dict, kind: _Kind, best: dict[str, float]) -> str:
    rows = []
    for judge in kind.judges if _judges([result]) else ():
        same = _digit(result, judge, "clip") == _digit(result, judge, "reconstruction")
        text = _text(result[f"{judge}_reconstruction"])
        rows.append(f'<div class="judged"><dt>{judge}</dt><dd class="{"same" if same else "other"}">{text}</dd></div>')
    for key in kind.numbers:
        number = NUMBERS[key]
        text = format_number(key, result.get(key))
        unit = _unit(number.unit) if text != DASH else ""
        mark = ' class="best"' if key in best and _number(result.get(key)) == best[key] else ""
        rows.append(f"<div{mark}><dt>{number.label}</dt><dd>{text}{unit}</dd></div>")
    return f'<dl class="numbers">{"".join(rows)}</dl>'


def _original_facts(result: dict, kind: _Kind, sound: Sound | str) -> str:
    rows = [(judge, _text(result[f"{judge}_clip"])) for judge in kind.judges if _judges([result])]
    if not isinstance(sound, str):
        audio, rate = sound
        rows += [
            ("length", _duration(len(audio) / rate)),
            ("rate", f"{rate / 1000:g} <small>kHz</small>"),
            ("channels", str(audio.shape[1])),
        ]
    if result.get("windows", 1) != 1:
        rows.append(("windows", format_number("evaluations", result["windows"])))
    if kind.name == FILE and _number(result.get(SILENCE)) is not None:
        rows.append(("log-mel distance to silence", format_number("log_mel_distance", result[SILENCE])))
    cells = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in rows)
    return f'<dl class="numbers">{cells}</dl>'


def _curves(output_dir: Path, clip: dict[str, dict], present: list[str], methods: list[str]) -> str:
    """The objective, mean over windows, after each evaluation of each method's search."""
    curves = {}
    for method in present:
        try:
            found = load_latents(output_dir / clip[method]["latents"]) if clip[method].get("latents") else None
        except UserError:
            continue  # moved away: the plot is of the others
        if found is not None and found.curve is not None:
            curves[methods.index(method)] = np.asarray(found.curve, np.float64).mean(axis=0)
    return curves_svg(curves, x_label="evaluations", y_label="objective")


def _links(name: str | None, result: dict | None) -> str:
    """Downloads of one column: its audio, and the latents of a reconstruction."""
    links = [_link(name, "WAV")] if name else []
    if result and result.get("latents"):
        links.append(_link(result["latents"], "latents (npz)"))
    return f'<p class="files">{" ".join(links)}</p>' if links else ""


def _link(path: str, label: str) -> str:
    return f'<a href="{audio_url(path)}" download>{_text(label)}</a>'


def _read(output_dir: Path, name: str | None) -> Sound | str:
    """The audio `[T, C]` and its rate in Hz, or the line that stands in its place."""
    if name is None:
        return "No audio was kept."
    try:
        return soundfile.read(output_dir / name, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError):
        return "The audio file is missing or damaged."


def _data(result: dict | None) -> str:
    """The attributes by which the page sorts and filters."""
    if result is None:
        return ""
    values = {key: number for key in NUMBERS if (number := _number(result.get(key))) is not None}
    numbers = "".join(f' data-{key.replace("_", "-")}="{value!r}"' for key, value in values.items())
    return f' data-status="{_text(_status(result))}"{numbers}'


# ---- of results -----------------------------------------------------------------


def _of_method(kind: _Kind, method: str) -> list[dict]:
    return [result for result in kind.results if result["method"] == method]


def _judges(results: Iterable[dict]) -> list[str]:
    """The judges that have classified clips and reconstructions."""
    found = {match[1] for result in results for key in result if (match := JUDGED.fullmatch(key)) and result[key]}
    return sorted(found)


def _digit(result: dict, judge: str, which: str) -> str:
    """The first word of a judge's answer."""
    return str(result.get(f"{judge}_{which}") or "").partition(" ")[0]


def _same_digit(results: Sequence[dict], judge: str) -> str:
    answers = [(_digit(r, judge, "clip"), _digit(r, judge, "reconstruction")) for r in results]
    answers = [pair for pair in answers if all(pair)]
    return f"{sum(a == b for a, b in answers)} of {len(answers)}"


def _status(result: dict) -> str:
    return str(result.get("status") or "unknown")


def _outcome(result: dict) -> str:
    """The verdict, or whether a match is exact, and why the search ended."""
    if result.get("verdict"):
        return str(result["verdict"])
    return f"{_exact(result)}{_status(result)}"


def _exact(result: dict) -> str:
    return "exact, " if result.get("match") == "exact" else ""


def _space(result: dict | None) -> str:
    """The label of what was found where it is not a latent of the prior."""
    if not result or result.get("space", "z") == "z":
        return ""
    return f" <small>{_text(result['space'])}, not a latent of the prior</small>"


def _status_chip(result: dict | None) -> str:
    return f'<span class="status">{_text(_outcome(result))}</span>' if result else ""


def _swatch(methods: list[str], method: str) -> str:
    """The colour of a method's curves and dots."""
    return f'<i class="s{methods.index(method)}"></i>'


def _choices(values: list[str]) -> str:
    return "".join(f'<option value="{_text(value)}">{_text(value)}</option>' for value in values)


def _method_order(method: str) -> tuple[int, str]:
    return (METHODS.index(method) if method in METHODS else len(METHODS), method)


def _median(results: Iterable[dict], key: str) -> float | None:
    values = [value for result in results if (value := _number(result.get(key))) is not None]
    return median(values) if values else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _unit(unit: str) -> str:
    return f" <small>{unit}</small>" if unit else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 60 else f"{int(seconds // 60)} min {seconds % 60:.0f} s"


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
