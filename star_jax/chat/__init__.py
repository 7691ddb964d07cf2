"""Dialogues about a document that is encoded once."""
