"""What Hydra does not do by itself: resolvers, a look at a whole sweep, what has changed since the last run.

Hydra swallows what its callbacks raise, so that what may refuse a run is called by our own code and is none of them;
the one that is a callback is `accelerator.cli.sweep.SweepRecord`.
"""
