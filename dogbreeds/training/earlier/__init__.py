"""What only the models and recipes of earlier systems need."""
