import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from download import ITEMS
from utils import options
from utils.errors import UserError

FIX = "fix this and run the same command again with its --output, which resumes"
NAMES = (
    "generator encoder classifier judge preset precision output limit batch_size seed dry_run quiet "
    "method solver max_iter restarts objective clip_to_prior window"
).split()
DOC = """Inverts clips.

Examples:
    python invert.py clips --limit 3   # three clips
"""
PRESETS = {"aligned": {}, "paper": {"max_iter": 50000, "clip_to_prior": False, "solver": "scipy"}}


def make_parser(*names, **defaults):
    parser = options.make_parser(DOC)
    options.add_shared(parser.add_argument_group("shared"), *(names or NAMES), **defaults)
    return parser


def usage_error(capsys, parser, *argv):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(argv)
    out, err = capsys.readouterr()
    assert stop.value.code == options.EXIT_USAGE
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_help_shows_docstring_groups_options_and_defaults():
    parser = make_parser(batch_size=7)
    text = parser.format_help()
    assert "\nExamples:\n    python invert.py clips --limit 3   # three clips\n" in text
    assert "\nshared:\n" in text
    unwrapped = " ".join(text.split())
    for name in NAMES:
        assert f" --{name} " in unwrapped.replace(",", " ")
    for name in ("dry_run", "quiet", "clip_to_prior"):
        assert (f"--no_{name} " in unwrapped) == (name == "clip_to_prior")
    assert "(default: 7)" in unwrapped and "(default: None)" not in unwrapped
    assert unwrapped.count("(default: ") == len(NAMES)


def test_defaults_parse_to_themselves():
    args = vars(make_parser().parse_args([]))
    assert set(args) == set(NAMES)
    argv = [f"--{name}={value}" for name, value in args.items() if value is not None and type(value) is not bool]
    assert vars(make_parser().parse_args(argv)) == args


@pytest.mark.parametrize(
    "argv",
    [
        ["--limit", "0"],
        ["--limit", "three"],
        ["--limit", "1.5"],
        ["--seed", "-1"],
        ["--seed", str(2**31)],
        ["--batch_size", "0"],
        ["--restarts", "-2"],
        ["--max_iter", ""],
        ["--precision", "float16"],
        ["--method", "magic"],
        ["--solver", "adam"],
        ["--window", "end"],
        ["--preset", "papers"],
        ["--output", ""],
        ["--limit"],
        ["--batch", "3"],
        ["--clip_to_prior=yes"],
    ],
)
def test_wrong_usage_is_one_line_that_names_the_flag(capsys, argv):
    assert argv[0].split("=")[0] in usage_error(capsys, make_parser(), *argv)


@given(st.integers(min_value=-(10**12), max_value=10**12))
def test_whole_numbers(number):
    for parse, smallest in ((options.positive_int, 1), (options.non_negative_int, 0)):
        if number >= smallest:
            assert parse(str(number)) == number
        else:
            with pytest.raises(options.argparse.ArgumentTypeError, match=f"at least {smallest}.*{number}"):
                parse(str(number))


def test_positive_float():
    assert options.positive_float("1e-8") == 1e-8
    for text in ("0", "-1", "nan", "inf", "1e999", "x", ""):
        with pytest.raises(options.argparse.ArgumentTypeError, match="finite number above 0"):
            options.positive_float(text)


def test_add_shared_refuses_what_it_does_not_know():
    for names, defaults in ((["sead"], {}), (["seed"], {"limit": 3})):
        with pytest.raises(ValueError, match="sead|limit"):
            options.add_shared(options.make_parser("x"), *names, **defaults)


@given(
    chosen=st.sampled_from(["aligned", "paper"]),
    explicit=st.dictionaries(
        st.sampled_from(["max_iter", "clip_to_prior", "solver"]), st.booleans(), max_size=3
    ),  # the value: is the flag given its default value, or another one
)
def test_explicit_flags_win_then_the_preset_then_the_default(chosen, explicit):
    spelled = {  # default value, another value, and how each is spelled
        "max_iter": {True: (400, ["--max_iter=400"]), False: (9, ["--max_iter", "9"])},
        "clip_to_prior": {True: (True, ["--clip_to_prior"]), False: (False, ["--no_clip_to_prior"])},
        "solver": {True: ("batched", ["--solver", "batched"]), False: ("scipy", ["--solver=scipy"])},
    }
    argv = ["--preset", chosen]
    for name, as_default in explicit.items():
        argv += spelled[name][as_default][1]
    parser = make_parser()
    args = options.apply_preset(parser.parse_args(argv), parser, PRESETS)
    for name, values in spelled.items():
        expected = PRESETS[chosen].get(name, values[True][0])
        if name in explicit:
            expected = values[explicit[name]][0]
        assert getattr(args, name) == expected
    assert args.preset == chosen and args.seed == 0


def test_preset_mistakes():
    parser = make_parser("preset", "seed")
    with pytest.raises(UserError, match="--preset.*aligned.*'paper'"):
        options.apply_preset(parser.parse_args(["--preset", "paper"]), parser, {"aligned": {}})
    with pytest.raises(ValueError, match="max_iter"):
        options.apply_preset(parser.parse_args(["--preset", "paper"]), parser, PRESETS)


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("return None", 0, ""),
        ("return options.EXIT_SOME_FAILED", 3, ""),
        (
            "raise errors.UserError('a.wav: is empty,\\nexpected audio')",
            2,
            "error: a.wav: is empty, expected audio\n",
        ),
        ("raise KeyboardInterrupt", 130, "error: interrupted\n"),
        (
            "raise OSError(28, 'No space left on device', 'out/a.wav')",
            2,
            f"error: out/a.wav: No space left on device; {FIX}\n",
        ),
        ("raise OSError(27, 'File too large', 'a.wav')", 2, f"error: a.wav: File too large; {FIX}\n"),
        ("raise OSError(22, 'Invalid argument', 'a:b.wav')", 2, f"error: a:b.wav: Invalid argument; {FIX}\n"),
        ("open('x' * 300, 'w')", 2, f"error: {'x' * 300}: File name too long; {FIX}\n"),
        ("raise MemoryError", 2, "error: --batch_size: out of memory; try a smaller one\n"),
    ],
)
def test_run_ends_the_process_with_the_documented_code(repo_root, body, code, stderr):
    script = textwrap.dedent(f"""
        from utils import errors, options
        def main():
            {body}
        options.run(main)
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=repo_root, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", stderr)


def test_the_data_is_looked_for_where_download_puts_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def read(*words):
        parser = options.make_parser(DOC)
        options.add_input(parser, "real clips", *options.DATA)
        return parser.parse_args(words).input

    assert {str(item.target) for item in ITEMS.values()} > set(options.DATA)
    assert read() == Path("datasets/sc09") and read("mine") == Path("mine")
    Path("datasets/speech_commands_v0.01").mkdir(parents=True)
    assert read() == Path("datasets/speech_commands_v0.01")
    Path("datasets/sc09").mkdir()
    assert read() == Path("datasets/sc09")
    with pytest.raises(SystemExit):
        read("--help")
    assert capsys.readouterr().out.count("(default: ") == 1
