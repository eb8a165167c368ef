"""The names that command lines offer, apart from their implementations, so that `--help` imports no library."""

ALIGNMENTS = ("aligned", "paper")  # utils.audio.files
ARCHITECTURES = ("resnet18", "mel_cnn", "waveform_cnn")  # models.classifier
AUGMENTATIONS = ("none", "light", "heavy")  # utils.audio.augment
DRAWS = ("random", "first")  # utils.evaluation.clips
ENCODERS = ("resnet18", "highway")  # models.encoder
FEATURE_DISTANCES = ("mse", "mae")  # models.encoder_training
FRONT_ENDS = ("stft_real", "log_magnitude")  # utils.spectrograms
LENGTHS = (16384, 32768, 65536)  # models.wavegan
PRIORS = ("uniform", "normal")  # utils.priors
SPLITS = ("train", "validation", "selection", "report", "test", "all")  # utils.audio.datasets
STRATEGIES = ("none", "mirrored", "multi_worker")  # utils.runs.strategies
