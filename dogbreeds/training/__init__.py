"""Training: from labelled photos to a run folder."""
