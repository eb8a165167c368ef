"""The numbers of the paper's tables."""

from utils.evaluation.names import CLIPS, ENCODER, GRADIENT, HYBRID, LATENTS, LOGISTIC_REGRESSION, SPECTROGRAMS, SVM

# Tables 1 and 2, of 501 clips a row: (mean, standard deviation) or one number.
ROWS: dict[int, dict[str, dict[str, tuple[float, ...]]]] = {
    1: {
        CLIPS: {"inception_score": (7.23, 0.003)},
        GRADIENT: {
            "inception_score": (3.96, 0.203),
            "frechet_distance": (0.7140,),
            "waveform_mse": (0.00489,),
            "ssim": (0.9618,),
        },
        ENCODER: {
            "inception_score": (7.50, 0.288),
            "frechet_distance": (0.4841,),
            "waveform_mse": (0.00196,),
            "ssim": (0.9731,),
        },
        HYBRID: {
            "inception_score": (7.23, 0.006),
            "frechet_distance": (0.4850,),
            "waveform_mse": (0.00003,),
            "ssim": (0.9979,),
        },
    },
    2: {
        CLIPS: {"inception_score": (9.20, 0.019), "accuracy": (0.9541,)},
        GRADIENT: {
            "inception_score": (2.20, 0.063),
            "frechet_distance": (1.0566,),
            "waveform_mse": (0.00959,),
            "ssim": (0.953,),
            "accuracy": (0.1717,),
        },
        ENCODER: {
            "inception_score": (7.93, 0.077),
            "frechet_distance": (0.4514,),
            "waveform_mse": (0.01176,),
            "ssim": (0.946,),
            "accuracy": (0.7106,),
        },
        HYBRID: {
            "inception_score": (3.89, 0.027),
            "frechet_distance": (0.8976,),
            "waveform_mse": (0.00887,),
            "ssim": (0.954,),
            "accuracy": (0.3693,),
        },
    },
}
N = 501
# Most iterations of a search, by its option here.
LIMITS = {GRADIENT: ("max_iter", 50_000), HYBRID: ("hybrid_max_iter", 200)}

# Table 3: accuracy by feature and classifier.
DETECTION = {
    (SPECTROGRAMS, LOGISTIC_REGRESSION): 0.515,
    (SPECTROGRAMS, SVM): 0.6749,
    (LATENTS, LOGISTIC_REGRESSION): 0.9199,
    (LATENTS, SVM): 0.915,
}
