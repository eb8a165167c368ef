"""The page to listen to: one `index.html` beside a run's audio files, readable offline and without a server.

The look and the behaviour (sorting, filters, keys) are in `page.html`; here its parts are filled in.
"""

import html
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from urllib.parse import quote

import numpy as np
import soundfile

from utils.inversion.directions import Walks
from utils.report.thumbnails import RANGE_DB, data_uri, spectrogram_db, spectrogram_png, waveform_svg
from utils.runs.files import atomic_path

TEMPLATE = Path(__file__).with_name("page.html")
METHODS = ("gradient", "encoder", "hybrid")  # the columns' order in the paper's Figures 2 and 3
RECOVERED_Z_MSE = 1e-3
Sound = tuple[np.ndarray, int]  # audio [T, C] and its rate in Hz
DASH = "–"

# key: (label, unit, +1 where more is better, -1 where less is, 0 where it is a cost or a fact)
NUMBERS = {
    "snr_db": ("SNR", "dB", 1),
    "ssim": ("SSIM", "", 1),
    "waveform_mse": ("MSE", "", -1),
    "objective": ("objective", "", -1),
    "z_mse": ("z-MSE", "", -1),
    "prior_distance": ("off the prior", "", 0),
    "offset_ms": ("offset", "ms", 0),
    "gain_db": ("gain", "dB", 0),
    "evaluations": ("evaluations", "", 0),
    "seconds": ("time", "s", 0),
}


# Numbers that not every result has: of own samples, of --space projected, of --align.
OPTIONAL = ("z_mse", "prior_distance", "offset_ms", "gain_db")


def write_page(
    output_dir: Path | str,
    title: str,
    results: Iterable[dict],
    facts: dict[str, str],
    *,
    failures: Mapping[str, str] = {},
    walks: Walks | None = None,
    max_clips: int = 500,
) -> Path:
    """Write `output_dir/index.html`: each clip and its reconstructions with players, pictures and numbers.

    Args:
        output_dir: the run's folder.
        title: heading of the page.
        results: the lines of `results.jsonl`, one dict a clip and method: `source`, `method`, `kind` ("file"
            or "own sample"), `original` and `reconstruction` (WAV paths relative to `output_dir`), `windows`,
            `status`, `match` (see `utils.inversion.latents`), and the numbers named in `NUMBERS`, which may be missing,
            None or not finite.
        facts: what the run was (generator, method, seed, commit, ...), shown as given.
        failures: reason by source.
        walks: sounds along directions of the latent space, which get a slider each.
        max_clips: clips shown, the first ones; the page says so if there are more. The medians are over all.

    Returns:
        The path of the page. An audio file that cannot be read leaves a note in its place.
    """
    output_dir = Path(output_dir)
    clips: dict[tuple[str, str], dict[str, dict]] = {}
    for result in results:
        clips.setdefault((result.get("kind", "file"), result["source"]), {})[result["method"]] = result
    every = [result for clip in clips.values() for result in clip.values()]
    methods = sorted({result["method"] for result in every}, key=_method_order)
    shown = list(clips.items())[:max_clips]

    present = _present(every)
    numbers = [f'<option value="{key}">{NUMBERS[key][0]}</option>' for key in present]
    parts = {
        "title": _text(title),
        "lead": _lead(every, methods),
        "medians": _medians(every, methods),
        "facts": "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in facts.items()),
        "failures": _failure_list(failures),
        "notice": _notice(len(shown), len(clips)),
        "methods": _choices(methods),
        "statuses": _choices(sorted({_status(result) for result in every})),
        "kinds": _choices(sorted({kind for kind, _ in clips})),
        "numbers": "".join(numbers),
        "range_db": f"{RANGE_DB:g}",
        "columns": str(1 + max((len(clip) for _, clip in shown), default=0)),
        "walks": _walks(walks) if walks else "",
        "clips": "\n".join(_card(output_dir, *key, clip, methods) for key, clip in shown),
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
    elif key in ("snr_db", "offset_ms", "gain_db"):
        text = f"{number:.1f}"
    elif key == "ssim":
        text = f"{number:.3f}"
    elif number == 0 or abs(number) >= 1000 and key == "seconds":
        text = f"{number:.0f}"
    elif 1e-3 <= abs(number) < 1000:
        text = f"{number:#.3g}".removesuffix(".")
    else:
        mantissa, exponent = f"{number:.1e}".split("e")
        text = mantissa + "×10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return text.replace("-", "−")


def audio_url(path: str) -> str:
    """A path relative to the page as a URL: every byte outside A-Z a-z 0-9 _ . - ~ / percent-encoded."""
    return quote(os.fsencode(path), safe="/")


def _card(output_dir: Path, kind: str, source: str, clip: dict[str, dict], methods: list[str]) -> str:
    """One clip: the original and its reconstructions side by side, drawn to common scales."""
    present = [method for method in methods if method in clip]
    names = [clip[present[0]]["original"], *(clip[method]["reconstruction"] for method in present)]
    sounds = [_read(output_dir, name) for name in names]
    readable = [sound for sound in sounds if not isinstance(sound, str)]
    peak = max((float(np.nanmax(np.abs(audio), initial=0)) for audio, _ in readable), default=0.0)
    peak = peak if math.isfinite(peak) and peak > 0 else 1.0
    spectra = [None if isinstance(sound, str) else spectrogram_db(sound[0]) for sound in sounds]
    top = max((float(decibels.max()) for decibels in spectra if decibels is not None), default=0.0)

    best = {}
    for key, (_, _, direction) in NUMBERS.items():
        values = [value for method in present if (value := _number(clip[method].get(key))) is not None]
        if direction and len(values) > 1:
            best[key] = max(values) if direction > 0 else min(values)

    figures = []
    for column, (name, sound, decibels) in enumerate(zip(names, sounds, spectra, strict=True)):
        method = present[column - 1] if column else "original"
        result = clip[method] if column else None
        label = f"{method} of {source}" if column else f"original {source}"
        figures.append(
            f'<figure class="sound" data-method="{_text(method)}"{_data(result)}>'
            f"<figcaption><h3>{_text(method)}{_space(result)}</h3>{_status_chip(result)}</figcaption>"
            + _pictures(sound, decibels, peak, top)
            + f'<audio controls preload="none" src="{audio_url(name)}" aria-label="{_text(label)}"></audio>'
            + (_numbers(result, best) if result else _original_facts(clip[present[0]], sound))
            + "</figure>"
        )
    folder, _, leaf = source.rpartition("/")
    return (
        f'<article class="clip" tabindex="0" data-kind="{_text(kind)}" data-source="{_text(source)}" '
        f'aria-label="{_text(source)}"><header><h2>'
        + (f'<span class="folder">{_text(folder)}/</span>' if folder else "")
        + f'{_text(leaf)}</h2><span class="kind">{_text(kind)}</span><button type="button" class="switch" '
        + 'title="the other of the last two columns, at the same position (x)">A/B</button></header>'
        + f'<div class="row">{"".join(figures)}</div></article>'
    )


def _walks(walks: Walks) -> str:
    """A card a latent with one player, and a slider a direction that chooses what it plays."""
    last, middle = len(walks.steps) - 1, len(walks.steps) // 2
    cards = []
    for latent in range(walks.latents):
        sliders = []
        for direction, share in enumerate(walks.shares):
            label = f"direction {direction + 1} <small>{share:.0%} of the variance</small>"
            sliders.append(
                f'<label><span>{label}</span><input type="range" min="0" max="{last}" value="{middle}" '
                f'data-files="{audio_url(walks.folder)}/{latent}-{direction}-" '
                f'aria-label="direction {direction + 1}, sample {latent}"><output>0</output></label>'
            )
        cards.append(
            f'<div class="sound walk"><h3>sample {latent}</h3>{"".join(sliders)}'
            f'<audio controls preload="none" src="{audio_url(walks.folder)}/{latent}-0-{middle}.flac" '
            f'aria-label="sample {latent}, moved"></audio></div>'
        )
    return (
        f'<section class="walks" data-steps="{" ".join(f"{step:g}" for step in walks.steps)}">'
        "<h2>Along the principal directions</h2>"
        "<p>Where the generator's first layer varies most (GANSpace). A slider moves a sample by standard deviations "
        "along one direction and plays what the generator makes of it.</p>"
        f'<div class="row">{"".join(cards)}</div></section>'
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


def _numbers(result: dict, best: dict[str, float]) -> str:
    rows = []
    for key, (label, unit, _) in NUMBERS.items():
        if key in OPTIONAL and result.get(key) is None:
            continue
        text = format_number(key, result.get(key))
        unit = f" <small>{unit}</small>" if unit and text != DASH else ""
        mark = ' class="best"' if key in best and _number(result.get(key)) == best[key] else ""
        rows.append(f"<div{mark}><dt>{label}</dt><dd>{text}{unit}</dd></div>")
    return f'<dl class="numbers">{"".join(rows)}</dl>'


def _original_facts(result: dict, sound: Sound | str) -> str:
    rows = []
    if not isinstance(sound, str):
        audio, rate = sound
        rows = [
            ("length", _duration(len(audio) / rate)),
            ("rate", f"{rate / 1000:g} <small>kHz</small>"),
            ("channels", str(audio.shape[1])),
        ]
    rows.append(("windows", format_number("evaluations", result.get("windows"))))
    cells = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in rows)
    return f'<dl class="numbers">{cells}</dl>'


def _lead(results: list[dict], methods: list[str]) -> str:
    """What a reader asks first: is a bad number the method's fault or the target's?"""
    sentences = []
    for method in methods:
        own = [r for r in results if r["method"] == method and r.get("kind") == "own sample"]
        files = [r for r in results if r["method"] == method and r.get("kind", "file") == "file"]
        clauses = []
        if own:
            clause = f"on its own samples the generator is recovered to {_median_quality(own)}"
            z_mse = [value for r in own if (value := _number(r.get("z_mse"))) is not None]
            if z_mse:
                exact = sum(value < RECOVERED_Z_MSE for value in z_mse)
                clause += f", the latent itself in {exact} of {len(z_mse)}"
            clauses.append(clause)
        if files:
            clauses.append(
                f"on your files to {_median_quality(files)}"
                if own
                else f"your files are recovered to {_median_quality(files)}"
            )
        if clauses:
            text = "; ".join(clauses) + "."
            name = f"<dt>{_text(method)}</dt>"
            sentences.append(f"<div>{name}<dd>{text[0].upper()}{text[1:]}</dd></div>")
    return "".join(sentences) or "<div><dd>No clip was recovered.</dd></div>"


def _present(results: list[dict]) -> list[str]:
    """The numbers that there are, those that every result has included."""
    return [k for k in NUMBERS if k not in OPTIONAL or any(_number(r.get(k)) is not None for r in results)]


def _median_quality(results: list[dict]) -> str:
    snr, ssim = (format_number(key, _median(results, key)) for key in ("snr_db", "ssim"))
    return f"<b>{snr} dB</b> SNR and <b>{ssim}</b> SSIM"


def _medians(results: list[dict], methods: list[str]) -> str:
    if not results:
        return ""
    present = _present(results)
    named = [NUMBERS[key][:2] for key in present]
    head = "".join(f"<th scope=col>{label}{f' <small>{unit}</small>' if unit else ''}</th>" for label, unit in named)
    rows = []
    for kind in sorted({result.get("kind", "file") for result in results}):
        for method in methods:
            group = [r for r in results if r["method"] == method and r.get("kind", "file") == kind]
            if not group:
                continue
            statuses = ", ".join(
                f"{count} {_text(status)}" for status, count in Counter(map(_status, group)).most_common()
            )
            exact = sum(result.get("match") == "exact" for result in group)
            statuses += f"; {exact} exact" if exact else ""
            cells = "".join(f"<td>{format_number(key, _median(group, key))}</td>" for key in present)
            rows.append(
                f"<tr><th scope=row>{_text(kind)}s</th><td>{_text(method)}</td><td>{len(group)}</td>{cells}"
                f"<td>{statuses}</td></tr>"
            )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="medians"><table>'
        f"<caption>Medians</caption><thead><tr>"
        f"<th scope=col>clips of kind</th><th scope=col>method</th><th scope=col>clips</th>{head}"
        f"<th scope=col>status</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


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


def _read(output_dir: Path, name: str) -> Sound | str:
    """The audio `[T, C]` and its rate in Hz, or the line that stands in its place."""
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


def _status(result: dict) -> str:
    return str(result.get("status") or "unknown")


def _space(result: dict | None) -> str:
    """The label of what was found where it is not a latent of the prior."""
    if not result or result.get("space", "z") == "z":
        return ""
    return f" <small>{_text(result['space'])}, not a latent of the prior</small>"


def _status_chip(result: dict | None) -> str:
    if not result:
        return ""
    match = f"{result['match']}, " if result.get("match") else ""
    return f'<span class="status">{_text(match + _status(result))}</span>'


def _choices(values: list[str]) -> str:
    return "".join(f'<option value="{_text(value)}">{_text(value)}</option>' for value in values)


def _method_order(method: str) -> tuple[int, str]:
    return (METHODS.index(method) if method in METHODS else len(METHODS), method)


def _median(results: list[dict], key: str) -> float | None:
    values = [value for result in results if (value := _number(result.get(key))) is not None]
    return median(values) if values else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 60 else f"{int(seconds // 60)} min {seconds % 60:.0f} s"


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
