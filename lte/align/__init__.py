"""Teach a model to heed the edits in its prompt, and to ignore those that do not concern the question."""
