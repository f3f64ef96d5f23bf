"""Pictures of a run, drawn with Matplotlib when it has ended.

Matplotlib is imported with this package: import it where a picture is drawn, never before the training.
"""
