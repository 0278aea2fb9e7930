"""Self-Attention Generative Adversarial Networks (arXiv:1805.08318) in JAX."""

__version__ = "0.2.0.dev0"
