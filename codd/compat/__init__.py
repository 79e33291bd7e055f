"""Generation as other projects spell it, on the models of this package."""
