"""The adapter to lm-evaluation-harness; within this folder `import lm_eval` is the harness."""
