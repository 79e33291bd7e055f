"""Files: the package's own formats, and those of other programs."""
