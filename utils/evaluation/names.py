"""What tables show, by name: rows of Tables 1 and 2; features, classifiers and conditions of Table 3."""

from utils.domains import REAL, SYNTHETIC
from utils.inversion.names import ENCODER, GRADIENT, HYBRID, METHODS, SEARCH

RECOVERY_METHODS = (GRADIENT, ENCODER, HYBRID)  # the paper's
PROJECTED = "hybrid, projected"  # in the space of the dense layer's output: no latents of the prior
CLIPS, SILENCE, SAMPLE, OTHER = "clips", "silence", "sample", "other"
CLASS_BASELINES = TEMPLATE, CLASS_SAMPLE = "template", "class_sample"  # by the class that a classifier assigns
SEARCHES = (GRADIENT, HYBRID, SEARCH, PROJECTED)
FROM_ENCODER = (ENCODER, HYBRID, SEARCH, PROJECTED)
BASELINES = (CLIPS, SILENCE, SAMPLE, OTHER, *CLASS_BASELINES)  # they search nothing
ROW_NAMES = (*METHODS, PROJECTED, *BASELINES)
# By the paper's flags --inverse_mapping and --gradient.
METHOD_OF_FLAGS = {(False, False): CLIPS, (True, False): ENCODER, (False, True): GRADIENT, (True, True): HYBRID}
# Of synthetic clips other ones are random samples.
ROWS = {
    1: (CLIPS, GRADIENT, ENCODER, HYBRID, SEARCH, TEMPLATE, CLASS_SAMPLE, SAMPLE, SILENCE),
    2: (CLIPS, GRADIENT, ENCODER, HYBRID, SEARCH, PROJECTED, OTHER, TEMPLATE, CLASS_SAMPLE, SAMPLE, SILENCE),
}
KINDS = {1: SYNTHETIC, 2: REAL}

FOLDS = 10  # of the cross-validation
FEWEST = 30  # clips of which something is concluded

SPECTROGRAMS, LATENTS = "spectrograms", "predicted latents"
CLIPPED_LATENTS = "predicted latents, clipped into the box"
TAIL_LEVEL = "tail level"
UNTRAINED_LATENTS = "answers of an untrained encoder"
LOGISTIC_REGRESSION, SVM = "logistic regression", "SVM"
CONDITIONS = {
    "as_is": "as they are",
    "pcm16": "both rounded to 16 bit",
    "matched": "real silence and level as the synthetic clips', then both rounded to 16 bit",
}

# What the numbers of Tables 1 and 2 (`utils.metrics`) are.
METRICS = {
    "inception_score": "exp of the mean KL divergence of a classifier's answers from their mean, over --splits groups; "
    "1 to 10",
    "frechet_distance": "Frechet distance of a classifier's pooled features, reconstructions against the clips (FID)",
    "accuracy": "share of reconstructions classified as the clip's digit (of a clip without one: as the clip itself)",
    "waveform_mse": "mean squared difference of the samples",
    "ssim": "structural similarity of the real-part STFTs, max_val = max - min over both (the paper's); at most 1",
    "ssim_log_magnitude": "structural similarity of the log-magnitude STFTs, max_val = max - min over both; at most 1",
    "stft_distance": "multi-resolution STFT distance: spectral convergence + error of log magnitudes, frames 256, 512, "
    "1024",
    "log_mel_correlation": "correlation of the log-mel spectrograms after the mean of the row's originals of that "
    "digit is taken out",
    "f0_error": "median error of F0 (pyin) in semitones where both are voiced, of clips with a pitch; at most 12, "
    "which stands where they never are",
    "f0_frame_error": "share of frames voiced (pyin) in one alone, or in both with F0 more than 20 % off",
    "latent_mse": "mean squared difference of recovered and true latents; always answering 0 scores the prior's "
    "variance",
    "latent_frechet_distance": "Frechet distance of the recovered latents from the true ones, or for real clips from "
    "the prior's",
    "outside_prior": "share of the entries of z outside of the prior's box",
}


def describe_metrics() -> str:
    """One line per metric, for `--help`."""
    width = max(map(len, METRICS)) + 2
    return "\n".join(f"  {name:{width}}{definition}" for name, definition in METRICS.items())
