"""Text: whose it is, which of its tokens are control, and a model's chat template."""
