"""A row as calculate_metrics.py gives `utils.report.tables.add_rows`."""

from utils.evaluation.names import ENCODER, GRADIENT, HYBRID


def row(name, preset, shift=0.0, n=501, **changed):
    """A record whose numbers are plausible and all different."""
    values = {
        "inception_score/classifier": 5,
        "inception_score/judge": 4,
        "frechet_distance/classifier": 2,
        "frechet_distance/judge": 3,
        "accuracy/classifier": 0.5,
        "accuracy/judge": 0.4,
        "waveform_mse": 0.004,
        "ssim": 0.95,
        "ssim_log_magnitude": 0.4,
        "stft_distance": 1.5,
        "log_mel_correlation": 0.3,
        "f0_error": 4,
        "f0_frame_error": 0.2,
        "latent_mse": 0.3,
        "latent_frechet_distance": 6,
        "outside_prior": 0.1,
    } | changed
    numbers = {}
    for metric, value in values.items():
        std = {"std": 0.25} if metric.startswith("inception") else {}
        interval = {"low": 0.9 * value, "high": 1.2 * value} if value else {}
        numbers[metric] = value and {"value": value + shift, "n": n, **interval, **std}
    searched = name in (GRADIENT, ENCODER, HYBRID)
    return {
        "row": name,
        "kind": "real",
        "preset": preset,
        "metrics": numbers,
        "seconds_a_clip": 0.5 if searched else None,
        "evaluations_a_clip": 110.0 if searched else None,
        "seconds_to_score": 30.0,
        "protocol": {
            "generator": "checkpoint/",
            "n": n,
            "seed": 7,
            "max_iter": 80,
            "hybrid_max_iter": 81,
            "splits": 2,
            "solver": "batched",
            "precision": "float32",
            "objective": "waveform=1",
            "changed": {},
            "prior_variance": 1 / 3,
            "input": "some/data",
            "split": "report",
            "draw": "random",
        },
        "environment": {
            "commit": "abcdef0123456789",
            "dirty": False,
            "hardware": {"cpu": "Some CPU", "cores": 2, "gpus": []},
        },
    }
