"""Tell a dog's breed from a photo, with a Vision Transformer or a CNN."""
