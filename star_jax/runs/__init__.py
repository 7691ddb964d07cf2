"""A run over many questions: commands, files that survive kills, progress, times."""
