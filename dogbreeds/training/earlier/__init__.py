"""Networks, losses and whitening that only the earlier systems used."""
