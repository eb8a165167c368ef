"""Networks and their loaders."""
