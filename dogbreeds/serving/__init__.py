"""Serving: from a run folder to answers, without torch."""
