"""Where a clip comes from: what an encoder with statistics by domain is told, and the kinds of clips in tables."""

REAL, SYNTHETIC = "real", "synthetic"
DOMAINS = (REAL, SYNTHETIC)
