"""The baseline: a frozen or fine-tuned foundation model with the decode heads of the student."""
