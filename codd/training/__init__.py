"""Training: text to windows, masking, loss, and a loop that can be stopped and resumed."""
