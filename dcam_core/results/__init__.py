"""Explanations: what they hold, how they are kept, and how they are shown."""
