"""The methods of recovery, by name."""

ENCODER, GRADIENT, HYBRID, SEARCH = "encoder", "gradient", "hybrid", "search"
METHODS = (ENCODER, GRADIENT, HYBRID, SEARCH)
