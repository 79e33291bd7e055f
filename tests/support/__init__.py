"""What several tests share: random circuits and evidence, and enumeration of all worlds."""
