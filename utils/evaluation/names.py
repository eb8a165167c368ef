"""What tables show, by name: rows of Tables 1 and 2; features, classifiers and conditions of Table 3."""

from utils.domains import REAL, SYNTHETIC

ENCODER, GRADIENT, HYBRID = "encoder", "gradient", "hybrid"
RECOVERY_METHODS = (GRADIENT, ENCODER, HYBRID)
PROJECTED = "hybrid, projected"  # in the space of the dense layer's output: no latents of the prior
CLIPS, SILENCE, SAMPLE, OTHER = "clips", "silence", "sample", "other"
LOOK_UPS = TEMPLATE, CLASS_SAMPLE = "template", "class_sample"  # by the class that a classifier hears
ROW_NAMES = (*RECOVERY_METHODS, PROJECTED, CLIPS, SILENCE, SAMPLE, OTHER, *LOOK_UPS)
# By the paper's flags --inverse_mapping and --gradient.
METHOD_OF_FLAGS = {(False, False): CLIPS, (True, False): ENCODER, (False, True): GRADIENT, (True, True): HYBRID}
# Of synthetic clips other ones are random samples.
ROWS = {
    1: (CLIPS, GRADIENT, ENCODER, HYBRID, TEMPLATE, CLASS_SAMPLE, SAMPLE, SILENCE),
    2: (CLIPS, GRADIENT, ENCODER, HYBRID, PROJECTED, OTHER, TEMPLATE, CLASS_SAMPLE, SAMPLE, SILENCE),
}
KINDS = {1: SYNTHETIC, 2: REAL}

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
