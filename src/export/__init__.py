"""A trained model in the formats of other programs, each checked on test images against the run."""
