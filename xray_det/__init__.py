"""Train object detectors over many large, long-tailed, partly labelled datasets on Ray.

The folders, in the order in which they may import one another (a test checks it):
labels, data, losses, models, train, inference, evaluation, tracking, orchestrate.
"""
