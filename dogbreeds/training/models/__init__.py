"""Image classifiers of transformers, with the data's breeds as their labels."""
