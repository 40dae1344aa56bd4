"""Research: what the models are worth."""
