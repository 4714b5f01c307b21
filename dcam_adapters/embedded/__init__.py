"""Tiny checkpoints that ship with dcam, really trained, each in its family's published layout."""
