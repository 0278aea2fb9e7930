"""Self-Attention Generative Adversarial Networks (arXiv:1805.08318) in JAX."""
