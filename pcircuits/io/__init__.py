"""Files: the package's own format."""
