"""Where a clip comes from: the domains of an encoder with statistics by domain, and the kinds of clips in tables."""

REAL, SYNTHETIC = "real", "synthetic"
DOMAINS = (REAL, SYNTHETIC)
