"""Circuits as immutable structure: no tensor and no parameter value lives here."""
